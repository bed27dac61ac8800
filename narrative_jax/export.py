"""Writes the LoRA adapter that a run trained for diffusers and PEFT, with a card that tells how it was made.

    python -m narrative_jax.export --run=runs/adpo --out=lora

The folder then holds pytorch_lora_weights.safetensors, adapter_config.json and README.md. The way back, for files of
other trainers too: python -m narrative_jax.sample --entry=lora/pytorch_lora_weights.safetensors
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrative_jax import pipeline
from narrative_jax.core.command import Parser
from narrative_jax.core.command import run as run_command
from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import check_writable, write_bytes
from narrative_jax.core.types import Params
from narrative_jax.generators.presets import PRESETS, RANDOM, adapter_shapes
from narrative_jax.models.checkpoints import check_arrays
from narrative_jax.models.flow_transformer import FLUX_NAMES, SUBJECT, tokens_of
from narrative_jax.models.lora import read_adapter
from narrative_jax.models.lora_files import WEIGHTS as LORA_WEIGHTS
from narrative_jax.models.lora_files import save_lora
from narrative_jax.report.findings import upper_bound
from narrative_jax.report.run import Run
from narrative_jax.stages.base import Context
from narrative_jax.stages.common import ADAPTER, WEIGHTS

CARD = "README.md"
APACHE = "Apache-2.0"
_LICENCES = {"": APACHE, RANDOM: "none, the weights are random"}  # by the config's generator.weights
_VELOCITY = "velocity"  # what diffusers' FLUX pipelines take a prediction for


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="narrative_jax.export", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="a run directory")
    parser.add_argument("--entry", default="", help="train entry of the run; by default the last")
    parser.add_argument("--out", default="lora", help="the folder to write")
    return run_command(_export, parser, argv)


def export(run: str | Path, entry: str, folder: str | Path) -> str:
    """Write the adapter of a train entry ("": the last) to `folder`.

    Returns what the files cannot say, "" where nothing is lost. Raises InputError.
    """
    config = pipeline.read_config(run)
    entries = pipeline.train_entries(config)
    if not entries:
        raise InputError(f"run {run}", "it trains no generator", "name one that does, e.g. runs/adpo")
    entry = entry or entries[-1]
    check_name("entry", entry, entries)
    context = Context(config, entry, Path(run))
    pipeline.check_trained(context, "name an entry that was trained")
    path = context.folder / ADAPTER
    if not path.exists():
        rule = "it trained all weights and left no adapter"
        raise InputError(f"entry {entry!r} of {run}", rule, f"take its {WEIGHTS}, in diffusers' names already")
    name, made_with, base, weights = read_adapter(path)
    shapes = adapter_shapes(config.generator.preset, name, made_with)
    check_arrays(path, _shapes(weights), _shapes(shapes))
    unsaid = _unsaid(weights, made_with["segments"])
    card = _card(Run(Path(run)), entry, base, made_with, weights, unsaid)
    folder = check_writable(folder)
    save_lora(folder, weights, made_with, base, _base_name(config), FLUX_NAMES)
    write_bytes(folder / CARD, card.encode())
    return unsaid


def _export(options):
    unsaid = export(options.run, options.entry, options.out)
    if unsaid:
        print(unsaid, file=sys.stderr)
    print(f"{options.out}: the adapter of {options.run}, for diffusers and PEFT")


def _shapes(arrays):
    return {name: value.shape for name, value in arrays.items()}


def _unsaid(weights: Params, segments: Sequence[str]) -> str:
    """What changes where an adapter of these segments acts on all tokens of its layers."""
    layers = {key.partition(".adapters.")[0] for key, value in weights.items() if key.endswith(".b") and value.any()}
    more = {kind for layer in layers for kind in tokens_of(layer)} - set(segments) if segments else ()
    if not more:
        return ""
    told = f"this adapter acts on {' and '.join(segments)} tokens only, which the files cannot say: elsewhere "
    if set(more) == {SUBJECT}:
        return told + "it acts on subject tokens too; without subject images the pictures are the same"
    return told + f"it acts on {' and '.join(sorted(more))} tokens too and the pictures are others"


def _base_name(config):
    preset, weights = config["generator"]["preset"], config["generator"]["weights"]
    if weights == RANDOM:
        return f"narrative_jax {preset}, random weights of seed {config['seed']}"
    return weights or f"narrative_jax {preset}, embedded weights"


def _card(run: Run, entry: str, base: str, made_with: dict[str, Any], weights: Params, unsaid: str) -> str:
    """The model card."""
    config = run.config[entry]
    generator = run.config["generator"]
    licence = _LICENCES.get(generator["weights"], "not recorded in the run: see where its weights come from")
    prediction = PRESETS[generator["preset"]].prediction_type
    hyper = "".join(f", {key} {value}" for key, value in config["hyper"].items())
    notes = [unsaid and f"{unsaid[0].upper()}{unsaid[1:]}."]
    if prediction != _VELOCITY:
        notes.append(f"The base predicts {prediction} latents; FLUX pipelines would take them for {_VELOCITY}.")
    return (
        f"""---
library_name: peft
license: {licence.lower() if licence == APACHE else "unknown"}
tags: [lora, text-to-image]
---

# {entry}

A LoRA adapter of rank {made_with["rank"]} and alpha {made_with["alpha"]:g} on {len(weights) // 2} linear layers.

| | |
| --- | --- |
| base | {_base_name(run.config)}; hash {base} |
| licence of the base | {licence} |
| trained by | {config["algorithm"]}{hyper}; {config["total_steps"]} steps of {config["batch_size"]} |
| data | {_data(run, entry)} |
| reward | {_reward(run, entry)} |

## Scores

{_scores(run, entry)}

## Use

```python
transformer.load_lora_adapter("this folder", weight_name="{LORA_WEIGHTS}")  # a FluxTransformer2DModel
```

{" ".join(filter(None, notes))}
""".rstrip()
        + "\n"
    )


def _sources(run: Run, entry: str) -> dict[str, dict]:
    """The entries that an entry's data went through, by stage."""
    found = {}
    while source := run.config[entry].get("source", ""):
        found[run.config[source]["stage"]] = {"name": source, **run.config[source]}
        entry = source
    return found


def _data(run, entry):
    scenes, sources = run.config.get("scenes", ""), _sources(run, entry)
    world = f"scenes of {Path(scenes).name}" if scenes else "Storybook, the embedded world"
    if "generate" not in sources:
        return f"{world}: its training set"
    drawn = sources["generate"]
    split = "" if scenes else f", split {drawn['split']}"
    pictures = f"{world}{split}: {drawn['scenes'] or 'all'} scenes, {drawn['per_scene']} pictures of each by the base"
    numbers = run.manifests.get(sources.get("screen", {}).get("name"), {"summary": {}})["summary"]
    return f"{pictures}, {numbers['pairs']:.0f} pairs" if "pairs" in numbers else pictures


def _reward(run, entry):
    score = _sources(run, entry).get("score")
    if score is None:
        return "none"
    reward, informed = run.reward_of(score["name"]), upper_bound(run.config, run.config[entry]["source"])
    return f"{reward}; an upper bound: {informed}" if informed else reward


def _scores(run, entry):
    """What the run's evaluation measured, as in its summary.json."""
    if entry not in run.arms:
        return "This entry was not evaluated in its run."
    judge = "the oracle" if run.gold else f"the reward {run.reward_of(run.judge)}"
    rows = [
        f"Means over {len(run.results['scenes'])} scenes, judged by {judge}, with 95 % intervals of the difference.",
        "",
        "| | base | with this adapter | difference |",
        "| --- | ---: | ---: | ---: |",
    ]
    for aspect in run.results["aspects"]:
        key = run.key(entry, aspect)
        names = ("baseline", "aligned", "diff", "diff_low", "diff_high")
        before, after, *difference = (round(run.numbers[f"{key}/{name}"], 3) + 0.0 for name in names)  # never -0.000
        cells = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*difference)
        rows.append(f"| {aspect.replace('_', ' ')} | {before:.3f} | {after:.3f} | {cells} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
