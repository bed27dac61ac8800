"""Draws the same scenes from the same noise with every arm, and has the gold judge compare them.

An arm is a generator in a state of training, or a way of using one: "baseline", the train entries named in `trained`,
"best_of_N" (of N candidates the one that the reward likes best) and "guidance" (the scale that is best on tune scenes).
All are compared with the baseline, and those pairs of arms that `compare` names with each other. The ceiling is what
the oracle says of true pictures. A user's scenes have no gold: the named reward stands in.
"""

from collections.abc import Sequence

import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.files import write_json
from narrative_jax.core.images import to_uint8
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.screening import standardise
from narrative_jax.generators.sampling import Drawer, Sampling
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.stages.base import Context
from narrative_jax.stages.common import (
    base_generator,
    check_generator,
    check_scenes,
    some_scenes,
    trained,
    was_trained,
)
from narrative_jax.stages.drawing import draw_candidates
from narrative_jax.stages.rewards import make_reward
from narrative_jax.stages.score import check as check_reward
from narrative_jax.storybook import ASPECTS, drawings, render

INPUTS = ("trained", "reward_from", "ensemble")
TUNE_SCENES = 64  # that the guidance scale is chosen on


def check(config, entry) -> None:
    """Raise InputError for scenes that the generator cannot draw, a reward that cannot judge them, and unknown arms."""
    check_generator(config)
    check_scenes(config, entry, minimum=2)  # an interval needs two
    check_reward(config, entry)
    check_count("per_scene", entry.per_scene, minimum=1)
    check_count("best_of", entry.best_of)
    _check_compare(entry)


def _check_compare(entry):
    arms = ["baseline", *entry.trained]
    arms += [f"best_of_{entry.best_of}"] * bool(entry.best_of) + ["guidance"] * bool(entry.guidance_scales)
    pairs = entry.get("compare", ())
    for pair in pairs if isinstance(pairs, tuple | list) else [pairs]:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"compare {pair!r}", "it holds pairs of arms", "write e.g. (('align', 'baseline'),)")
        for arm in pair:
            check_name("arm to compare", arm, arms)
        if pair[0] == pair[1] or list(pairs).count(pair) > 1:
            raise InputError(f"compare {pair!r}", "an arm is compared with another one, once", "name two arms")


def run(context: Context) -> dict[str, float]:
    """Leave each arm's pictures, and in results.json all arms' values by scene; returns the compared means.

    Keys are gold/<aspect>/{baseline,aligned,ceiling,diff,diff_low,diff_high} for the first trained entry, and
    gold/<arm>/... for the others, gold/<arm>_over_<arm>/{<aspect>,mean_of_aspects}/{diff,diff_low,diff_high} for those
    compared with each other; reward/... for a user's scenes. Raises InputError, Stopped between two batches.
    """
    entry, config = context.entry, context.config
    generator, base = base_generator(context)
    scenes, _ = some_scenes(config, entry.split, entry.scenes, entry.scene_seed, generator.max_subjects)
    write_records(context.folder / "scenes", scenes)
    judge = _Judge(context)
    values = {"baseline": judge.arm("baseline", scenes, generator, base)}
    for name in filter(lambda name: was_trained(context, name), entry.trained):
        values[name] = judge.arm(name, scenes, *trained(context, name, generator, base))
    chosen = {}
    if entry.best_of:
        values[f"best_of_{entry.best_of}"] = judge.best_of(entry.best_of, scenes, generator, base)
    if entry.guidance_scales:
        values["guidance"], chosen["guidance_scale"] = judge.guidance(scenes, generator, base)
    if not config.scenes:
        values["ceiling"] = _ceiling(entry, len(scenes))
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
    between = _between(values, entry.get("compare", ()), columns, judge.kind)
    return _compare(values, columns, judge.kind) | between | chosen


class _Judge:
    """Draws arms and judges them: f64[scenes, criteria], the mean over a scene's pictures."""

    def __init__(self, context: Context):
        self.context, self.entry = context, context.entry
        self.reward = make_reward(context.config, context.entry, context.workdir)
        self.kind = "reward" if context.config.scenes else "gold"
        self.columns = {aspect: () for aspect in self.reward.aspects} if context.config.scenes else ASPECTS

    def arm(self, name, scenes, generator, params, per_scene=None, scale=None) -> np.ndarray:
        """One arm's values."""
        per_scene = per_scene or self.entry.per_scene
        images, _ = self._pictures(name, scenes, generator, params, per_scene, scale)
        return self._values(images, scenes)

    def best_of(self, n, scenes, generator, params) -> np.ndarray:
        """Of n pictures a scene the one with the highest mean of the reward's scores, standardised over all."""
        images, records = self._pictures(f"best_of_{n}", scenes, generator, params, n)
        repeated = [scene for scene in scenes for _ in range(n)]
        scores = self.reward.score_images(images.reshape(-1, *images.shape[2:]), repeated, [r.id for r in records])
        scores = standardise(scores, scores.mean(0), scores.std(0)).mean(1).reshape(len(scenes), n)
        return self._values(images[np.arange(len(scenes)), scores.argmax(1)][:, None], scenes)

    def guidance(self, scenes, generator, params) -> tuple[np.ndarray, float]:
        """The arm with the scale that is best on tune scenes, and that scale."""
        tune, _ = some_scenes(self.context.config, "tune", TUNE_SCENES, self.entry.scene_seed, generator.max_subjects)
        by_scale = {
            scale: self.arm(f"guidance_{scale:g}_tune", tune, generator, params, 1, scale).mean()
            for scale in self.entry.guidance_scales
        }
        best = max(by_scale, key=by_scale.get)
        return self.arm("guidance", scenes, generator, params, scale=best), float(best)

    def _pictures(self, name, scenes, generator, params, per_scene, scale=None):
        """u8[scenes, per_scene, h, w, 3], drawn unless an earlier run did, and their records."""
        config, folder = self.context.config, self.context.folder / name
        sampling = Sampling(**config.sampling.to_dict() | ({} if scale is None else {"guidance_scale": scale}))
        drawer = Drawer(generator, sampling, make_mesh(config.mesh))
        draw_candidates(self.context, folder, drawer, params, scenes, per_scene, name)
        records = list(open_records(folder / "candidates", Candidate))
        images = np.stack([record.image for record in records])
        return images.reshape(len(scenes), per_scene, *images.shape[1:]), records

    def _values(self, images, scenes: Sequence[Scene]):
        n, per_scene = images.shape[:2]
        flat, repeated = images.reshape(-1, *images.shape[2:]), [scene for scene in scenes for _ in range(per_scene)]
        if self.kind == "gold":
            values = judge_images(flat, repeated).criteria
        else:
            values = self.reward.score_images(flat, repeated, [scene.id for scene in repeated])
        return np.float64(values).reshape(n, per_scene, -1).mean(1)


def _ceiling(entry, count):
    """The oracle's criteria of true pictures of the same scenes."""
    facts, drawing = drawings(entry.split, range(count), entry.scene_seed)
    scenes = [Scene("true", "", (), entry.split, fact) for fact in facts]
    return np.float64(judge_images(to_uint8(render(drawing)), scenes).criteria)


def _compare(values, columns, kind) -> dict[str, float]:
    """Means and paired differences of every arm, by aspect and criterion."""
    numbers = {}
    arms = [name for name in values if name not in ("baseline", "ceiling")]
    for position, arm in enumerate(arms):
        prefix = kind if position == 0 else f"{kind}/{arm}"
        closed = []
        for name, get in _measures(columns):
            before, after = get(values["baseline"]), get(values[arm])
            key = f"{prefix}/{name}"
            numbers |= {f"{key}/baseline": before.mean(), f"{key}/aligned": after.mean()}
            numbers |= _difference(key, after, before)
            if "ceiling" in values:
                ceiling = get(values["ceiling"]).mean()
                numbers[f"{key}/ceiling"] = ceiling
                if name in columns:
                    closed.append(numbers[f"{key}/diff"] / (ceiling - before.mean()))
        if closed:
            numbers[f"{prefix}/gap_closed"] = float(np.mean(closed))
    if not arms:
        for name, get in _measures(columns):
            numbers |= {f"{kind}/{name}/{arm}": get(rows).mean() for arm, rows in values.items()}
    return numbers


def _between(values, pairs, columns, kind) -> dict[str, float]:
    """Paired differences between the two arms of each pair, by aspect, and for gold of the mean of aspects.

    An arm that had nothing to train on has no values: its pairs are left out.
    """
    numbers = {}
    aspects = [(name, get) for name, get in _measures(columns) if name in columns]
    for pair in pairs:
        if not all(arm in values for arm in pair):
            continue
        key = f"{kind}/{'_over_'.join(pair)}"
        for name, get in aspects:
            numbers |= _difference(f"{key}/{name}", *(get(values[arm]) for arm in pair))
        if kind == "gold":  # a reward's aspects have scales of their own
            means = (np.mean([get(values[arm]) for _, get in aspects], axis=0) for arm in pair)
            numbers |= _difference(f"{key}/mean_of_aspects", *means)
    return numbers


def _difference(key, after, before):
    """The mean difference between the values of the same scenes, and its interval."""
    found = statistics.paired_bootstrap(after, before)
    return {f"{key}/diff": found.estimate, f"{key}/diff_low": found.low, f"{key}/diff_high": found.high}


def _measures(columns):
    """(name, values[n, criteria] -> values[n]) of every aspect and criterion."""
    place = 0
    for aspect, criteria in columns.items():
        width = max(1, len(criteria))
        yield aspect, lambda rows, at=place, to=place + width: rows[:, at:to].mean(1)
        for offset, criterion in enumerate(criteria):
            yield f"{aspect}/{criterion}", lambda rows, at=place + offset: rows[:, at]
        place += width
