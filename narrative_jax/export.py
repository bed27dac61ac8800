"""Writes the LoRA adapter that a run trained for diffusers and PEFT, with a card that tells how it was made.

    python -m narrative_jax.export --run=runs/adpo --out=lora

The folder then holds pytorch_lora_weights.safetensors, adapter_config.json and README.md. The way back, for files of
other trainers too: python -m narrative_jax.sample --entry=lora
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from narrative_jax.core.command import Parser
from narrative_jax.core.command import run as run_command
from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import check_writable, write_bytes
from narrative_jax.models.checkpoints import check_arrays
from narrative_jax.models.lora import AdapterOptions, joined, read_adapter
from narrative_jax.models.lora_files import WEIGHTS as LORA_WEIGHTS
from narrative_jax.models.lora_files import save_lora
from narrative_jax.models.network import below
from narrative_jax.report.findings import privileged
from narrative_jax.report.run import Run
from narrative_jax.runs.directory import ADAPTER, Context, read_config
from narrative_jax.runs.generator import adapter_shapes, generator_options, preset_of
from narrative_jax.runs.tables import Tables
from narrative_jax.runs.trained import check_trained, generator_entries, standing_on, training_of

CARD = "README.md"
APACHE = "Apache-2.0"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="narrative_jax.export", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="a run directory")
    parser.add_argument("--entry", default="", help="train entry of the run; by default the last")
    parser.add_argument("--out", default="lora", help="the folder to write")
    return run_command(_export, parser, argv)


def export(run: str | Path, entry: str, folder: str | Path, tables: Tables | None = None) -> str:
    """Write the adapter of a train entry ("": the last) to `folder`; `tables` are those that the run was made with.

    Of one that comes after others all are written, as one adapter.
    Returns what the files cannot say, "" where nothing is lost. Raises InputError.
    """
    config = read_config(run)
    entries = generator_entries(config)
    if not entries:
        raise InputError(f"run {run}", "it trains no generator", "name one that does, e.g. runs/adpo")
    entry = entry or entries[-1]
    check_name("entry", entry, entries)
    context = Context(config, entry, Path(run), tables=tables or Tables())
    check_trained(context, "name an entry that was trained")
    if not (context.folder / ADAPTER).exists():
        rule = "it trained all weights and left no adapter"
        raise InputError(f"entry {entry!r} of {run}", rule, "take its weights, in diffusers' names already")
    preset = preset_of(context)
    base, options, weights, below_it = _whole(context, preset)
    generator, _ = preset.abstract()
    notes = [*generator.lora_notes(weights, options.segments), *below_it]
    described, licence = preset.described(generator_options(context), config.seed)
    base_name, part = f"narrative_jax {config.generator.preset}: {described}", generator.denoiser
    card = _Card(Run(Path(run)), entry, base, base_name, licence, part).text(options, len(weights) // 2, notes)
    folder = check_writable(folder)
    save_lora(folder, below(part, weights), options, base, base_name, generator.names[part], part)
    write_bytes(folder / CARD, card.encode())
    return " ".join(notes)


def _whole(context, preset):
    """What the context's entry trained and all adapters that it stands on, as one: the base's hash, options, weights.

    Fourth, what must be said of other weights that these stand on.
    """
    adapters, notes, bases = [], [], []
    for name in standing_on(context.config, context.name):
        path = context.path(name) / ADAPTER
        if not path.exists():
            notes = [f"It goes on top of the weights that {name} left, not on those of the base."]
            continue
        named, options, base, weights = read_adapter(path)
        check_arrays(path, _shapes(weights), _shapes(adapter_shapes(preset, named, options)))
        adapters.append((options, weights))
        bases.append(base)
    return bases[0], *(joined(adapters) if len(adapters) > 1 else adapters[0]), notes


def _export(options):
    unsaid = export(options.run, options.entry, options.out)
    if unsaid:
        print(unsaid, file=sys.stderr)
    print(f"{options.out}: the adapter of {options.run}, for diffusers and PEFT")


def _shapes(arrays):
    return {name: value.shape for name, value in arrays.items()}


@dataclass(frozen=True)
class _Card:
    """The model card of a train entry; `base` is the hash of what it was trained on."""

    run: Run
    entry: str
    base: str
    base_name: str
    licence: str
    part: str

    def text(self, options: AdapterOptions, layers: int, notes: Sequence[str]) -> str:
        """The card, in Markdown."""
        config = self.run.config[training_of(self.run.config, self.entry)]
        numbers = self.run.manifests.get(self.entry, {"summary": {}})["summary"]
        steps = round(numbers.get("step", config["total_steps"]))  # of one that was chosen, up to there
        hyper = "".join(f", {key} {value}" for key, value in config.get("hyper", {}).items())
        return (
            f"""---
library_name: peft
license: {self.licence.lower() if self.licence == APACHE else "unknown"}
tags: [lora, text-to-image]
---

# {self.entry}

A LoRA adapter of rank {options.rank} and alpha {options.alpha:g} on {layers} linear layers.

| | |
| --- | --- |
| base | {self.base_name}; hash {self.base} |
| licence of the base | {self.licence} |
| trained by | {config["algorithm"]}{hyper}; {steps} steps of {config["batch_size"]} |
| data | {_data(self.run, self.entry)} |
| reward | {_reward(self.run, self.entry)} |

## Scores

{_scores(self.run, self.entry)}

## Use

```python
{self.part}.load_lora_adapter("this folder", weight_name="{LORA_WEIGHTS}")  # a pipeline's, of diffusers
```

{" ".join(notes)}
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
    if "collect" in sources:
        numbers = run.manifests.get(sources["collect"]["name"], {"summary": {}})["summary"]
        return f"people's own pictures: {numbers.get('preferences', 0):.0f} preferences"
    if "generate" not in sources:
        return f"{world}: its training set"
    drawn = sources["generate"]
    split = "" if scenes else f", split {drawn['split']}"
    pictures = f"{world}{split}: {drawn['scenes'] or 'all'} scenes, {drawn['per_scene']} pictures of each by the base"
    numbers = run.manifests.get(sources.get("screen", {}).get("name"), {"summary": {}})["summary"]
    return f"{pictures}, {numbers['pairs']:.0f} pairs" if "pairs" in numbers else pictures


def _reward(run, entry):
    training = run.config[training_of(run.config, entry)]
    if training.get("reward", ""):
        return f"{training['reward']}, whose gradient it follows"
    score = _sources(run, entry).get("score")
    if score is None:
        return "none"
    reward, informed = run.reward_of(score["name"]), privileged(run.config, entry)
    return f"{reward}; privileged feedback: {informed}" if informed else reward


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
