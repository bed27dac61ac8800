"""The arms of an evaluation: pictures drawn with each, and what is found in them."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from narrative_jax.core import processes
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.data.screening import standardise
from narrative_jax.generators.base import Generator
from narrative_jax.rewards.base import HostReward
from narrative_jax.rewards.oracle import COLUMNS, judge_images
from narrative_jax.runs.candidates import draw_arm
from narrative_jax.runs.directory import Context
from narrative_jax.runs.rewards import open_followed, open_reward
from narrative_jax.statistics.comparison import Judged, aspect_values


class Arms:
    """Draws `per_scene` pictures of each scene and has them judged, by the oracle (`gold`), by the entry's reward, or
    by the one that a train entry `followed`.

    Values are means over a scene's pictures. Drawing raises Stopped between two batches.
    """

    def __init__(self, context: Context, per_scene: int, gold: bool, followed: str = ""):
        self.context, self.per_scene, self.gold, self.followed = context, per_scene, gold, followed

    @cached_property
    def reward(self) -> HostReward:
        """Opened where an arm needs it."""
        return open_followed(self.context, self.followed) if self.followed else open_reward(self.context)

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The aspects, each with its criteria."""
        return COLUMNS if self.gold else {aspect: () for aspect in self.reward.aspects}

    def arm(
        self,
        name: str,
        scenes: Sequence[Scene],
        generator: Generator,
        params: Params,
        per_scene: int | None = None,
        scale: float | None = None,
        shown: Sequence[Scene] | None = None,
    ) -> Judged:
        """The arm `name`, drawn as the config says unless `per_scene` or the guidance `scale` says otherwise.

        Where it draws the scenes as they are `shown` to it, they are judged as they are, as other arms' are.
        """
        drawn, per_scene = scenes if shown is None else shown, per_scene or self.per_scene
        images, ids = self._pictures(name, drawn, generator, params, per_scene, scale)
        return self.judged(images, scenes, ids)

    def best_of(
        self, n: int, scenes: Sequence[Scene], generator: Generator, params: Params, reward: HostReward | None = None
    ) -> Judged:
        """Of n pictures a scene the one with the highest mean of the reward's scores, standardised over all.

        The reward is the entry's unless another is given. Of equal ones the first is taken.
        """
        images, ids = self._pictures(f"best_of_{n}", scenes, generator, params, n)
        repeated = [scene for scene in scenes for _ in range(n)]
        scores = self._scores(reward or self.reward, images.reshape(-1, *images.shape[2:]), repeated, ids)
        scores = standardise(scores, scores.mean(0), scores.std(0)).mean(1).reshape(len(scenes), n)
        best = np.arange(len(scenes)), scores.argmax(1)
        return self.judged(images[best][:, None], scenes, ids[best][:, None])

    def best_scale(
        self, scales: Sequence[float], scenes: Sequence[Scene], generator: Generator, params: Params
    ) -> float:
        """The guidance scale with the highest mean of aspects on these scenes, one picture each."""
        means = {}
        for scale in scales:
            values = self.arm(f"guidance_{scale:g}_tune", scenes, generator, params, 1, scale).values
            means[scale] = aspect_values(values, self.columns).mean()
        return float(max(means, key=means.get))

    def _pictures(self, name, scenes, generator, params, per_scene, scale=None):
        """u8[scenes, per_scene, h, w, 3], drawn unless an earlier run did, and their ids [scenes, per_scene]."""
        sampling = {} if scale is None else {"guidance_scale": scale}
        return draw_arm(self.context, name, generator, params, scenes, per_scene, sampling)

    def judged(self, images: np.ndarray, scenes: Sequence[Scene], ids: np.ndarray) -> Judged:
        """What is found in pictures u8[scenes, k, h, w, 3] with these ids [scenes, k]."""
        n, per_scene = images.shape[:2]
        flat, repeated = images.reshape(-1, *images.shape[2:]), [scene for scene in scenes for _ in range(per_scene)]
        if self.gold:
            values, presence = self._gold(flat, repeated)
            complete = (presence == 1).reshape(n, per_scene).all(1)
        else:
            values, complete = self._scores(self.reward, flat, repeated, ids), None
        return Judged(values.reshape(n, per_scene, -1).mean(1), complete)

    def _scores(self, reward, images, scenes, ids):
        """f64[pictures, aspects]."""
        ids = ids.ravel().tolist()

        def score(rows):
            of = [[each[row] for row in rows] for each in (images, scenes, ids)]
            return reward.score_images(*of).tolist()

        return np.float64(processes.in_shares(f"{self.context.name}: scores", len(images), score))

    def _gold(self, images, scenes):
        """The oracle's measures f64[pictures, criteria], and how much of each picture's characters is there."""

        def judge(rows):
            found = judge_images([images[row] for row in rows], [scenes[row] for row in rows])
            return np.column_stack([found.measures, found.presence]).tolist()

        found = np.float64(processes.in_shares(f"{self.context.name}: gold", len(images), judge))
        return found[:, :-1], found[:, -1]
