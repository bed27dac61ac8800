"""Scores the candidates of an entry with a reward, by aspect; one that writes critiques leaves them beside."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Annotation, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.runs.annotations import ANNOTATIONS
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.chunks import leave_kinds
from narrative_jax.runs.critiques import CritiqueOptions
from narrative_jax.runs.directory import Context
from narrative_jax.runs.rewards import (
    RewardOptions,
    check_reward,
    open_reward,
    reward_files,
    same_reward,
    sections_of,
)
from narrative_jax.runs.scenes import open_scenes
from narrative_jax.runs.scores import CALIBRATION

INPUTS = ("source", "reward_from", "ensemble", "calibration", "critiques_from")
sections = sections_of

_CHUNK = 256  # candidates between two looks at the stop flag


@dataclass(frozen=True)
class Options(CritiqueOptions, RewardOptions):
    """`source` is the entry whose candidates are scored; see `CritiqueOptions` for controls.

    What is made of the scores reads them in deviations of a calibration: of the score entry `calibration`, which has
    the same reward and scored pictures of a stated set, or else of these very pictures.
    """

    source: str = field(kw_only=True)
    calibration: str = ""


def check(context: Context, options: Options) -> None:
    """Raise InputError for an unknown reward or option, and for a reward that cannot judge these scenes."""
    if not options.source:
        rule = "it scores the pictures of an earlier entry"
        raise InputError(f"{context.name}.source ''", rule, "name one that draws or collects them")
    collected = context.config[pictures_entry(context.config, options.source)].stage == "collect"
    reward = check_reward(context, own=collected or bool(context.config.get("scenes", "")))
    options.check(context, options.source, getattr(reward, "writes", False))
    if options.calibration:
        _check_calibration(context, options.calibration)


def _check_calibration(context, name):
    known = [each for each, section in context.config.items() if getattr(section, "stage", None) == "score"]
    check_name("score entry to calibrate by", name, [each for each in known if each != context.name])
    given = f"{context.name}.calibration {name!r}"
    if context.config[name].get("calibration", ""):
        raise InputError(given, "it is calibrated by another entry itself", "name that one")
    if not same_reward(context, context.of(name)):
        raise InputError(given, "its reward or an option of it is another", f"give {name} the reward of {context.name}")


def files(context: Context) -> Iterable[str]:
    """The reward's."""
    return reward_files(context)


def run(context: Context, options: Options) -> dict[str, float]:
    """Write a Score for each candidate, and mean and deviation of each aspect over them: what calibrates by them.

    A reward's own critiques are left as annotations, without the annotators' points.
    Returns their number and means. Raises InputError for a candidate whose scene is missing or cannot be judged,
    Stopped between two chunks.
    """
    calibration = context.folder / CALIBRATION
    if processes.first_does(f"{context.name}: what is to do", lambda: not calibration.exists()):
        candidates = open_candidates(context, options.source)
        reward = options.controlled(context, open_reward(context, candidates), candidates)
        scenes, row_of = open_scenes(candidates)

        def score(rows):
            return _score(reward, [candidates[row] for row in rows], scenes, row_of)

        kinds = {"scores": Score} | ({ANNOTATIONS: Annotation} if _writes(reward) else {})
        rows = range(len(candidates))
        leave_kinds(context, context.folder, kinds, rows, score, _CHUNK, context.name)
        if context.writes:
            scores = open_records(context.folder / "scores", Score).columns("scores")["scores"]
            Calibration.of(reward, scores, options.source).save(calibration)
    return processes.first_does(f"{context.name}: numbers", lambda: _numbers(context.folder))


def _numbers(folder: Path) -> dict[str, float]:
    saved = read_json(folder / CALIBRATION)
    means = {f"mean/{aspect}": mean for aspect, mean in zip(saved["aspects"], saved["mean"], strict=True)}
    return {"count": len(open_records(folder / "scores", Score)), **means}


def _writes(reward):
    return getattr(reward, "writes", False)


def _score(reward, candidates, scenes, row_of):
    """Scores, and annotations of a reward that writes, in order; each scene is read once, and `row_of` its id says
    where it stands.
    """
    asked = {id: scenes[row_of[id]] for id in dict.fromkeys(candidate.scene_id for candidate in candidates)}
    images, ids = [candidate.image for candidate in candidates], [candidate.id for candidate in candidates]
    given = (images, [asked[candidate.scene_id] for candidate in candidates], ids)
    made = {}
    if _writes(reward):
        words, rows = reward.criticise_images(*given)
        made[ANNOTATIONS] = [
            Annotation(id, aspect, critique, None, reward.name)
            for id, critiques in zip(ids, words, strict=True)
            for aspect, critique in zip(reward.aspects, critiques, strict=True)
        ]
    else:
        rows = reward.score_images(*given)
    made["scores"] = [Score(id, reward.name, tuple(row)) for id, row in zip(ids, rows.tolist(), strict=True)]
    return made
