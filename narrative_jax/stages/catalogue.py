"""Stages by name."""

from narrative_jax.stages import (
    accuracy,
    annotate,
    best_of,
    choose,
    collect,
    evaluate,
    faults,
    fidelity,
    gather,
    generate,
    publish,
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
    "annotate": annotate,
    "best_of": best_of,
    "publish": publish,
    "choose": choose,
    "collect": collect,
    "refine": refine,
    "generate": generate,
    "gather": gather,
    "score": score,
    "retrieve": retrieve,
    "screen": screen,
    "train": train,
    "evaluate": evaluate,
    "faults": faults,
    "fidelity": fidelity,
    "tabulate": tabulate,
}
