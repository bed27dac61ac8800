"""Puts the scores of several score entries into one table."""

from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from narrative_jax.core.files import write_bytes
from narrative_jax.core.records import Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.runs.annotations import read_critiques
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.critiques import check_critiques
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scores import aspects_of, check_score_entries, read_scores

INPUTS = ("sources", "critiques")
ALONE = True


@dataclass(frozen=True)
class Options:
    """`sources` are score entries of the same pictures, `critiques` entries whose annotators or rewards criticised
    these.
    """

    sources: tuple[str, ...]
    critiques: tuple[str, ...] = ()


def check(context: Context, options: Options) -> None:
    """Raise InputError unless there are score entries, all of the same pictures, and critiques of these."""
    check_score_entries(context, options.sources)
    for name in options.critiques:
        check_critiques(context, name, options.sources[0])


def run(context: Context, options: Options) -> dict[str, float]:
    """Write scores.parquet, a row for each picture, and print mean, deviation and range of each score.

    Its columns are id, prompt, aspects, and ENTRY/ASPECT/critique; an aspect that several entries have bears its
    entry's name too. Returns the numbers of rows and scores.
    """
    candidates = open_candidates(context, pictures_entry(context.config, options.sources[0]))
    scenes = open_records(candidates.folder.with_name("scenes"), Scene).columns("id", "prompt")
    prompts, pictures = dict(zip(*scenes.values(), strict=True)), candidates.columns("id", "scene_id")
    shown = {id: prompts[scene_id] for id, scene_id in zip(*pictures.values(), strict=True)}
    scores = {}
    for name in options.sources:
        for aspect, column in zip(aspects_of(context, name), read_scores(context, name, list(shown)).T, strict=True):
            scores[f"{name}/{aspect}" if aspect in scores else aspect] = column
    words = {}
    for name in options.critiques:
        said = read_critiques(context, name)
        for aspect in dict.fromkeys(aspect for _, aspect in said):
            words[f"{name}/{aspect}/critique"] = [said.get((id, aspect), "") for id in shown]
    table = {"id": list(shown), "prompt": list(shown.values()), **scores, **words}
    file = BytesIO()
    pq.write_table(pa.table(table), file)
    write_bytes(context.folder / "scores.parquet", file.getvalue())
    width = max(map(len, scores))
    print(f"{'':{width}}  {'mean':>9} {'std':>9} {'least':>9} {'most':>9}")
    for name, column in scores.items():
        print(f"{name:{width}}  {column.mean():9.4f} {column.std():9.4f} {column.min():9.4f} {column.max():9.4f}")
    print(f"{len(shown)} pictures: {context.folder / 'scores.parquet'}", flush=True)
    return {"rows": len(shown), "scores": len(scores)}
