"""Puts the scores of several score entries into one table."""

from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json, write_bytes
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.stages.base import Context
from narrative_jax.stages.common import read_scores

INPUTS = ("sources",)


def check(config, entry) -> None:
    """Raise InputError unless there are score entries, all of the same pictures."""
    for name in entry.sources:
        if config[name].stage != "score":
            raise InputError(f"sources {name!r}", "it scores no pictures", "name score entries")
    judged = {name: config[name].source for name in entry.sources}
    if len(set(judged.values())) != 1:
        given = ", ".join(f"{name} of {source}" for name, source in judged.items()) or "none"
        raise InputError(f"sources {given}", "a table is of the pictures of one entry", "name score entries of one")


def run(context: Context) -> dict[str, float]:
    """Write scores.parquet, a row for each picture, and print mean, deviation and range of each score.

    Its columns are id, prompt, and aspects; one that several entries have bears its entry's name too. Returns the
    numbers of rows and scores.
    """
    sources = context.entry.sources
    pictures = context.path(context.config[sources[0]].source)
    prompts = {scene.id: scene.prompt for scene in open_records(pictures / "scenes", Scene)}
    shown = {each.id: prompts[each.scene_id] for each in open_records(pictures / "candidates", Candidate)}
    scores = {}
    for name in sources:
        for aspect, column in zip(_aspects(context, name), read_scores(context, name, list(shown)).T, strict=True):
            scores[f"{name}/{aspect}" if aspect in scores else aspect] = column
    table = {"id": list(shown), "prompt": list(shown.values()), **scores}
    file = BytesIO()
    pq.write_table(pa.table(table), file)
    write_bytes(context.folder / "scores.parquet", file.getvalue())
    width = max(map(len, scores))
    print(f"{'':{width}}  {'mean':>9} {'std':>9} {'least':>9} {'most':>9}")
    for name, column in scores.items():
        print(f"{name:{width}}  {column.mean():9.4f} {column.std():9.4f} {column.min():9.4f} {column.max():9.4f}")
    print(f"{len(shown)} pictures: {context.folder / 'scores.parquet'}", flush=True)
    return {"rows": len(shown), "scores": len(scores)}


def _aspects(context, name):
    return read_json(context.path(name) / "calibration.json")["aspects"]
