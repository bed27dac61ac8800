"""Puts the scores of several score entries into one table."""

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json, write_bytes
from narrative_jax.core.records import Candidate, Scene, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.stages.base import Context

INPUTS = ("sources",)


def check(config, entry) -> None:
    """Raise InputError unless the score entries are of the same pictures."""
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
    scores = {}
    for name in sources:
        records = list(open_records(context.path(name) / "scores", Score))
        values = np.array([record.scores for record in records])
        for aspect, column in zip(_aspects(context, name), values.T, strict=True):
            scores[f"{name}/{aspect}" if aspect in scores else aspect] = column
    prompts = {scene.id: scene.prompt for scene in open_records(pictures / "scenes", Scene)}
    candidates = [(candidate.id, candidate.scene_id) for candidate in open_records(pictures / "candidates", Candidate)]
    table = {"id": [id for id, _ in candidates], "prompt": [prompts[scene] for _, scene in candidates], **scores}
    file = BytesIO()
    pq.write_table(pa.table(table), file)
    write_bytes(context.folder / "scores.parquet", file.getvalue())
    width = max(map(len, scores))
    print(f"{'':{width}}  {'mean':>9} {'std':>9} {'least':>9} {'most':>9}")
    for name, column in scores.items():
        print(f"{name:{width}}  {column.mean():9.4f} {column.std():9.4f} {column.min():9.4f} {column.max():9.4f}")
    print(f"{len(candidates)} pictures: {context.folder / 'scores.parquet'}", flush=True)
    return {"rows": len(candidates), "scores": len(scores)}


def _aspects(context, name):
    return read_json(context.path(name) / "calibration.json")["aspects"]
