"""Scores the candidates of a generate entry with a reward, by aspect."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Candidate, Scene, Score
from narrative_jax.data.datasets import finished_chunks, open_records, pack_chunks, write_chunk
from narrative_jax.rewards.base import HostReward
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.stages.base import Context
from narrative_jax.stages.rewards import make_reward

INPUTS = ("source", "reward_from", "ensemble")

_CHUNK = 256  # candidates between two looks at the stop flag


def check(config, entry) -> None:
    """Raise InputError for an unknown reward or option, and for a reward that cannot judge the config's scenes."""
    reward = make_reward(config, entry)
    if config.scenes and reward.needs_facts:
        rule = f"it judges Storybook's own scenes only, not {config.scenes}"
        raise InputError(f"reward {reward.name!r}", rule, "use the reward 'picture_statistics'")


def run(context: Context) -> dict[str, float]:
    """Write a Score for each candidate and the reward's calibration: mean and deviation of each aspect over them.

    Returns their number and means. Raises InputError for a candidate whose scene is missing or cannot be judged.
    """
    chunks, calibration = context.folder / "chunks", context.folder / "calibration.json"
    if not calibration.exists():  # written last: from then on the chunks are not needed
        _score_all(context, chunks)
        pack_chunks(chunks, context.folder / "scores", Score)
        scores = [score.scores for score in open_records(context.folder / "scores", Score)]
        Calibration.of(make_reward(context.config, context.entry, context.workdir), scores, context.entry.source).save(
            calibration
        )
    shutil.rmtree(chunks, ignore_errors=True)
    saved = read_json(calibration)
    means = {f"mean/{aspect}": mean for aspect, mean in zip(saved["aspects"], saved["mean"], strict=True)}
    return {"count": len(open_records(context.folder / "scores", Score)), **means}


def _score_all(context: Context, chunks: Path) -> None:
    """Score the candidates, a chunk at a time; raises Stopped between two."""
    reward, source = make_reward(context.config, context.entry, context.workdir), context.path(context.entry.source)
    candidates, scenes = open_records(source / "candidates", Candidate), _Scenes(source / "scenes")
    done = finished_chunks(chunks)
    begun = min(len(done) * _CHUNK, len(candidates))
    with tqdm(total=len(candidates), initial=begun, desc=context.name, unit="picture") as progress:
        for number, start in enumerate(range(0, len(candidates), _CHUNK)):
            if number in done:
                continue
            if context.stop.requested:
                raise Stopped
            part = [candidates[row] for row in range(start, min(start + _CHUNK, len(candidates)))]
            write_chunk(chunks, number, _score(reward, part, scenes))
            progress.update(len(part))


def _score(reward: HostReward, candidates: Sequence[Candidate], scenes: "_Scenes") -> list[Score]:
    """In order, pictures of one size at a time."""
    asked = scenes.of(candidates)
    rows = np.empty((len(candidates), len(reward.aspects)), np.float32)
    for shape in dict.fromkeys(candidate.image.shape for candidate in candidates):
        places = [place for place, candidate in enumerate(candidates) if candidate.image.shape == shape]
        images, ids = np.stack([candidates[i].image for i in places]), [candidates[i].id for i in places]
        rows[places] = reward.score_images(images, [asked[i] for i in places], ids)
    pairs = zip(candidates, rows.tolist(), strict=True)
    return [Score(candidate.id, reward.name, tuple(row)) for candidate, row in pairs]


class _Scenes:
    """The scenes of an entry by id, read when they are needed: their photos may be more than memory holds."""

    def __init__(self, folder: Path):
        self.folder, self.records = folder, open_records(folder, Scene)
        self.rows = {scene.id: row for row, scene in enumerate(self.records)}

    def of(self, candidates: Sequence[Candidate]) -> list[Scene]:
        """The scene of each candidate. Raises InputError."""
        ids = [candidate.scene_id for candidate in candidates]
        strange = [id for id in ids if id not in self.rows]
        if strange:
            rule = "candidates are of this scene, which is not there"
            raise InputError(f"{self.folder}: scene {strange[0]!r}", rule, "remove the folder and generate again")
        scenes = {id: self.records[self.rows[id]] for id in dict.fromkeys(ids)}
        return [scenes[id] for id in ids]
