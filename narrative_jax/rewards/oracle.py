"""The gold judge as a reward, and judging many pictures on all cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from narrative_jax import storybook
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Pictures
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.rewards.workers import run_all
from narrative_jax.storybook import CRITERIA, VERSION, drawings, render
from narrative_jax.storybook.oracle import Judgement, judge
from narrative_jax.storybook.parse import check_pictures
from narrative_jax.storybook.world import PORTRAIT_POSE, POSES, WORLD, Character, Facts, World, is_unseen

WORLD_VERSION = VERSION  # what is made from scenes or judgements of another version is stale
MOVED_BY_PRESENCE = tuple(name for name in CRITERIA if name != "setting")  # they are 0 where nobody is
COLUMNS = storybook.ASPECTS  # each aspect with its criteria
_CHUNK = 32  # pictures a worker judges at a time: the parser's own chunk


@dataclass(frozen=True)
class Oracle:
    """The oracle's own scores, in [0, 1]: training on it shows the most that any reward could do."""

    name: ClassVar[str] = "oracle"
    aspects: ClassVar[tuple[str, ...]] = ASPECTS
    differentiable: ClassVar[bool] = False
    needs_facts: ClassVar[bool] = True

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, 3]; see `HostReward`. Raises InputError."""
        return judge_images(images, scenes).aspects


@dataclass(frozen=True)
class Presence:
    """The share of the characters asked for that the oracle finds: a control, for what presence alone explains."""

    name: ClassVar[str] = "presence"
    aspects: ClassVar[tuple[str, ...]] = ("presence",)
    differentiable: ClassVar[bool] = False
    needs_facts: ClassVar[bool] = True

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, 1]; see `HostReward`. Raises InputError."""
        return judge_images(images, scenes).presence[:, None]


def judge_images(images: Pictures, scenes: Sequence[Scene]) -> Judgement:
    """Judge pictures u8[40, 40, 3] against their scenes, on all cores, in order. Raises InputError."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        rule = "those of the embedded world are all of one"
        raise InputError(f"pictures of {len(shapes)} sizes, {shapes[0]} to {shapes[-1]}", rule, "leave the others out")
    pictures, facts = check_pictures(to_float(images)), [facts_of(scene) for scene in scenes]
    for asked in facts:
        WORLD.check(asked)
    chunks = [slice(i, i + _CHUNK) for i in range(0, len(pictures), _CHUNK)]
    if len(chunks) == 1 or len(pictures) != len(facts):
        return judge(pictures, facts)
    parts = run_all(judge, [(pictures[chunk], facts[chunk]) for chunk in chunks])
    criteria, aspects = (np.concatenate([getattr(part, name) for part in parts]) for name in ("criteria", "aspects"))
    return Judgement(criteria, aspects, tuple(finding for part in parts for finding in part.findings))


def judge_true_pictures(
    split: str, rows: Sequence[int], seed: int, characters: int = WORLD.max_characters, copied: bool = False
) -> np.ndarray:
    """The measures f64[rows, 12] of a true picture of each of these scenes of a split. Raises InputError.

    `copied`: of one in which everybody stands as in the portrait, which is what copying and pasting comes to.
    """
    facts, drawing = drawings(split, rows, seed, World(characters))
    if copied:
        drawing.poses[:] = POSES.index(PORTRAIT_POSE)
    scenes = [Scene("true", "", (), split, fact) for fact in facts]
    return np.float64(judge_images(to_uint8(render(drawing)), scenes).measures)


def kinds_of_scenes(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Which of Storybook's scenes, bool[scenes], ask for how many characters, and for what no training set has.

    Raises InputError.
    """
    facts = [facts_of(scene) for scene in scenes]
    counts, unseen = np.array([len(each.characters) for each in facts]), np.array([is_unseen(each) for each in facts])
    return {"one_character": counts == 1, "two_characters": counts == 2, "seen": ~unseen, "unseen": unseen}


def facts_of(scene: Scene) -> Facts:
    """The facts of a Storybook scene, also of one read from disk, where they are plain. Raises InputError."""
    facts = scene.facts
    if facts is None:
        rule = "oracle and raters judge Storybook's own scenes only"
        raise InputError(f"scene {scene.id!r} without facts", rule, "use the reward 'picture_statistics'")
    if isinstance(facts, Facts):
        return facts
    try:
        characters = tuple(Character(**character) for character in facts["characters"])
        return Facts(characters, facts["location"], facts["style"])
    except (KeyError, TypeError) as error:
        rule = "they hold characters (name, attributes, action), location and style"
        raise InputError(f"facts of scene {scene.id!r} ({error})", rule, "write the scenes again") from error
