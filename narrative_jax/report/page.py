"""The page itself, put together from what the other modules find, and what is printed beside it."""

import json
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from narrative_jax.core.files import write_bytes
from narrative_jax.report import curves, findings, pictures, tables, wording
from narrative_jax.report.critiques import criticised
from narrative_jax.report.run import Run

TEMPLATES = Path(__file__).parents[1] / "templates"
RULES = {
    "dominance": "one of the two is better on every aspect",
    "pareto": "one is nowhere worse, somewhere better",
    "majority": "one is better on more aspects than worse",
    "average": "one has the higher mean",
    "best_worst": "the best and the worst of a prompt",
    "rejection": "the chosen one is above every threshold",
    "cap": "the largest gaps of a prompt",
    "lot": "by lot, as many as another entry has",
}
NOTICES = {
    "unknown_words": "Words unknown to the tokeniser, without meaning to the generator",
    "truncated_prompts": "Prompts too long for the text encoder, which lost their end",
    "further_photos": "Subjects of which the generator looks at the first photo only (further ones)",
    "left_out": "Pictures left out",
    "dropped_scenes": "Scenes left out, with more subjects than the generator has slots",
}
NAMED = 20  # of a notice
PACKAGES = ("jax", "flax", "numpy")


def write(workdir: str | Path) -> None:
    """Write `report.html` of a finished run, and print tables and verdict. Raises InputError for damaged records."""
    run = Run(Path(workdir))
    printed, verdict = tables.printed(run), findings.verdict(run)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        run=run,
        wording=wording,
        title=run.workdir.resolve().name,
        verdict=verdict,
        figures=list(_key_figures(run)),
        tables=tables.shown(run),
        notices=list(_notices(run)),
        groups=list(pictures.groups(run)),
        refined=list(pictures.refined(run)),
        criticised=list(criticised(run)),
        steps=list(pictures.by_step(run)),
        step_panels=list(curves.by_step(run)),
        panels=list(curves.panels(run)),
        samples=pictures.samples(run),
        funnel=_funnel(run),
        costs=_costs(run),
        command=_command(),
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
    )
    write_bytes(run.workdir / "report.html", page.encode())
    print(*(f"\n{table.text()}" for table in printed), f"\n{tables.in_lines(verdict)}\n", sep="\n")
    print(f"report: {run.workdir / 'report.html'}", flush=True)


def _key_figures(run: Run) -> Iterator[tuple[str, str]]:
    """Value and name of what is asked first."""
    if run.gold and findings.is_clear(run):
        yield wording.percent(run.numbers["gold/gap_closed"]), "of the gap to true pictures closed"
    if run.screen:
        yield f"{run.manifests[run.screen]['summary']['pairs']:,}", "preference pairs"
    yield _duration(sum(manifest["seconds"] for manifest in run.manifests.values())), "in total"
    yield _gigabytes(max(manifest["peak_bytes"] for manifest in run.manifests.values())), "peak memory"


def _notices(run: Run) -> Iterator[str]:
    """What a reader should know before believing the pictures."""
    generator = run.config.get("generator")
    if generator and generator.get("weights") == "random":
        yield "The baseline has random weights: its pictures are noise."
    elif generator and (run.config.get("scenes") or run.entries("collect")) and not generator.get("weights"):
        yield "The embedded weights know only Storybook: its words and its characters, nothing that is in photos."
    if (run.config.get("scenes") or run.entries("collect")) and run.judged_by_shipped_nireward:
        yield "The NIReward that ships has learned Storybook's pictures only: of others its critiques mean nothing."
    if run.skipped and run.arms:
        yield "Alignment was skipped: no pair survived screening."
    for entry in run.entries("generate") + run.entries("collect"):
        path = run.workdir / entry / "notices.json"
        found = json.loads(path.read_bytes()) if path.exists() else {}
        for kind in filter(found.get, NOTICES):
            more = f" and {len(found[kind]) - NAMED} more" if len(found[kind]) > NAMED else ""
            yield f"{NOTICES[kind]}: {'; '.join(found[kind][:NAMED])}{more}."


def _funnel(run: Run) -> list[dict]:
    """Each screening rule with the pairs it left, and their share of those that came to it and of all."""
    if not run.screen:
        return []
    numbers = run.manifests[run.screen]["summary"]
    left = [("considered", numbers["considered"])]
    for key, removed in numbers.items():
        if key.startswith("removed/"):
            left.append((key.removeprefix("removed/"), left[-1][1] - removed))
    rows = [{"rule": "considered", "meaning": "all pairs within a prompt", "left": left[0][1], "share": None}]
    for (_, before), (rule, after) in pairwise(left):
        share = after / before if before else None
        rows.append({"rule": rule, "meaning": RULES.get(rule, ""), "left": after, "share": share})
    return [row | {"bar": row["left"] / max(1, left[0][1])} for row in rows]


def _costs(run: Run) -> list[tuple[str, str, str, str]]:
    """Entry, stage, time and memory."""
    return [
        (name, manifest["stage"], _duration(manifest["seconds"]), _gigabytes(manifest["peak_bytes"]))
        for name, manifest in run.manifests.items()
    ]


def _duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _gigabytes(size):
    return f"{size / 1e9:.2f} GB"


def _command():
    """The command line that is running, where it is the launcher's."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = spec.name if spec else Path(sys.argv[0]).name
    words = {"narrative_jax.launch": "python -m narrative_jax.launch"}
    words |= dict.fromkeys(["narrative_jax.__main__", "narrative_jax"], "narrative_jax")  # with `launch` behind it
    return f"{words[program]} {shlex.join(sys.argv[1:])}" if program in words else None
