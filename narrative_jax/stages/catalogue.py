"""Stages by name."""

from narrative_jax.stages import (
    accuracy,
    choose,
    collect,
    evaluate,
    fidelity,
    generate,
    refine,
    retrieve,
    score,
    screen,
    tabulate,
    train,
)
from narrative_jax.stages.base import Stage

STAGES: dict[str, Stage] = {
    "accuracy": accuracy,
    "choose": choose,
    "collect": collect,
    "refine": refine,
    "generate": generate,
    "score": score,
    "retrieve": retrieve,
    "screen": screen,
    "train": train,
    "evaluate": evaluate,
    "fidelity": fidelity,
    "tabulate": tabulate,
}
