"""Draws the same scenes from the same noise with every arm, and has the gold judge compare them.

An arm is a generator in a state of training, or a way of using one: "baseline", the train entries named in `trained`,
"best_of_N" (of N candidates the one that the reward likes best) and "guidance" (the scale that is best on tune scenes).
All are compared with the baseline, and those pairs of arms that `compare` names with each other. The ceiling is what
the oracle says of true pictures. A user's scenes have no gold: the named reward stands in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.files import write_json
from narrative_jax.data.datasets import write_records
from narrative_jax.data.screening import standardise
from narrative_jax.rewards.oracle import judge_images, judge_true_pictures
from narrative_jax.runs.candidates import draw_arm
from narrative_jax.runs.directory import Context, was_trained
from narrative_jax.runs.generator import base_generator, check_generator, sampling_of
from narrative_jax.runs.rewards import RewardOptions, check_reward, open_reward, reward_files, sections_of
from narrative_jax.runs.scenes import check_scenes, collected_scenes, some_scenes
from narrative_jax.runs.trained import train_entries, with_trained
from narrative_jax.statistics.comparison import between, compare
from narrative_jax.storybook import ASPECTS

INPUTS = ("source", "trained", "reward_from", "ensemble")
sections = sections_of
TUNE_SCENES = 64  # that the guidance scale is chosen on


@dataclass(frozen=True)
class Options(RewardOptions):
    """The arms, and the scenes that they draw `per_scene` pictures of.

    These are what the collect entry `source` took pictures of, or else the first `scenes` of a split or of a user's
    file (0: all). `compare` are pairs of arms.
    """

    source: str = ""
    split: str = "test"
    scenes: int = 0
    scene_seed: int = 0
    per_scene: int = 1
    trained: tuple[str, ...] = ()
    best_of: int = 0
    guidance_scales: tuple[float, ...] = ()
    compare: tuple[tuple[str, str], ...] = ()


def check(context: Context, options: Options) -> None:
    """Raise InputError for scenes that the generator cannot draw, a reward that cannot judge them, and unknown arms."""
    check_generator(context)
    if options.source:
        collects = [name for name, section in context.config.items() if getattr(section, "stage", "") == "collect"]
        check_name("source of scenes", options.source, collects)
    else:  # an interval needs two
        check_scenes(context, options.split, options.scenes, options.scene_seed, minimum=2)
    check_reward(context, own=_are_own(context, options))
    check_count("per_scene", options.per_scene, minimum=1)
    check_count("best_of", options.best_of)
    for name in options.trained:
        check_name("train entry of the generator", name, train_entries(context.config))
    for scale in options.guidance_scales:
        sampling_of(context, guidance_scale=scale)
    _check_compare(options)


def files(context: Context) -> Iterable[str]:
    """The reward's."""
    return reward_files(context)


def _check_compare(options):
    arms = ["baseline", *options.trained]
    arms += [f"best_of_{options.best_of}"] * bool(options.best_of) + ["guidance"] * bool(options.guidance_scales)
    for pair in options.compare:
        for arm in pair:
            check_name("arm to compare", arm, arms)
        if pair[0] == pair[1] or options.compare.count(pair) > 1:
            raise InputError(f"compare {pair!r}", "an arm is compared with another one, once", "name two arms")


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave each arm's pictures, and in results.json all arms' values by scene; returns the compared means.

    Keys are gold/<aspect>/{baseline,aligned,ceiling,diff,diff_low,diff_high} for the first trained entry, and
    gold/<arm>/... for the others, gold/<arm>_over_<arm>/{<aspect>,mean_of_aspects}/{diff,diff_low,diff_high} for those
    compared with each other; reward/... for a user's scenes. Raises InputError, Stopped between two batches.
    """
    generator, base = base_generator(context)
    scenes = _scenes(context, options, generator.max_subjects, options.split, options.scenes)
    write_records(context.folder / "scenes", scenes)
    judge = _Judge(context, options)
    values = {"baseline": judge.arm("baseline", scenes, generator, base)}
    for name in filter(lambda name: was_trained(context.path(name)), options.trained):
        values[name] = judge.arm(name, scenes, *with_trained(context, name, generator, base))
    chosen = {}
    if options.best_of:
        values[f"best_of_{options.best_of}"] = judge.best_of(options.best_of, scenes, generator, base)
    if options.guidance_scales:
        values["guidance"], chosen["guidance_scale"] = judge.guidance(scenes, generator, base)
    if judge.kind == "gold":
        values["ceiling"] = judge_true_pictures(options.split, len(scenes), options.scene_seed)
    columns = judge.columns
    write_json(
        context.folder / "results.json",
        {
            "scenes": [scene.id for scene in scenes],
            "aspects": {aspect: list(criteria) for aspect, criteria in columns.items()},
            "kind": judge.kind,
            "arms": {name: np.round(rows, 6).tolist() for name, rows in values.items()},
            **chosen,
        },
    )
    return compare(values, columns, judge.kind) | between(values, options.compare, columns, judge.kind) | chosen


def _are_own(context, options):
    """Whether the scenes are a user's, of which nobody knows the truth."""
    return bool(context.config.scenes or options.source)


def _scenes(context, options, most, split, count):
    if options.source:
        return collected_scenes(context, options.source, count, most, minimum=2)
    return some_scenes(context.config, split, count, options.scene_seed, most)[0]


class _Judge:
    """Draws arms and judges them: f64[scenes, criteria], the mean over a scene's pictures."""

    def __init__(self, context: Context, options: Options):
        self.context, self.options = context, options
        self.kind = "reward" if _are_own(context, options) else "gold"
        self.reward = open_reward(context) if options.best_of or self.kind == "reward" else None
        self.columns = ASPECTS if self.kind == "gold" else {aspect: () for aspect in self.reward.aspects}

    def arm(self, name, scenes, generator, params, per_scene=None, scale=None) -> np.ndarray:
        """One arm's values."""
        per_scene = per_scene or self.options.per_scene
        images, ids = self._pictures(name, scenes, generator, params, per_scene, scale)
        return self._values(images, scenes, ids)

    def best_of(self, n, scenes, generator, params) -> np.ndarray:
        """Of n pictures a scene the one with the highest mean of the reward's scores, standardised over all."""
        images, ids = self._pictures(f"best_of_{n}", scenes, generator, params, n)
        repeated = [scene for scene in scenes for _ in range(n)]
        scores = self.reward.score_images(images.reshape(-1, *images.shape[2:]), repeated, ids.ravel().tolist())
        scores = standardise(scores, scores.mean(0), scores.std(0)).mean(1).reshape(len(scenes), n)
        best = np.arange(len(scenes)), scores.argmax(1)
        return self._values(images[best][:, None], scenes, ids[best][:, None])

    def guidance(self, scenes, generator, params) -> tuple[np.ndarray, float]:
        """The arm with the scale that is best on tune scenes, and that scale."""
        tune = _scenes(self.context, self.options, generator.max_subjects, "tune", TUNE_SCENES)
        by_scale = {
            scale: self.arm(f"guidance_{scale:g}_tune", tune, generator, params, 1, scale).mean()
            for scale in self.options.guidance_scales
        }
        best = max(by_scale, key=by_scale.get)
        return self.arm("guidance", scenes, generator, params, scale=best), float(best)

    def _pictures(self, name, scenes, generator, params, per_scene, scale=None):
        """u8[scenes, per_scene, h, w, 3], drawn unless an earlier run did, and their ids [scenes, per_scene]."""
        sampling = {} if scale is None else {"guidance_scale": scale}
        records = draw_arm(self.context, name, generator, params, scenes, per_scene, sampling)
        images = np.stack([record.image for record in records])
        ids = np.array([record.id for record in records], object).reshape(len(scenes), per_scene)
        return images.reshape(*ids.shape, *images.shape[1:]), ids

    def _values(self, images, scenes, ids):
        n, per_scene = images.shape[:2]
        flat, repeated = images.reshape(-1, *images.shape[2:]), [scene for scene in scenes for _ in range(per_scene)]
        if self.kind == "gold":
            values = judge_images(flat, repeated).criteria
        else:
            values = self.reward.score_images(flat, repeated, ids.ravel().tolist())
        return np.float64(values).reshape(n, per_scene, -1).mean(1)
