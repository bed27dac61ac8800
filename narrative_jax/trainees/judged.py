"""What a reward learns from: preferences and annotations of two pictures, or of one what it shows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.memory import Memory
from narrative_jax.rewards.base import PureReward
from narrative_jax.rewards.seen import describe_images, describe_pictures, see_portrait
from narrative_jax.runs.annotations import makes_annotations, open_annotated
from narrative_jax.runs.directory import Context
from narrative_jax.runs.preferences import label, makes_preferences, open_preferences
from narrative_jax.trainees.base import Batches, TrainingSetOptions, check_source
from narrative_jax.trainees.drawn import DrawnExamples, WithDrawn

Fitted = Callable[[np.ndarray], np.ndarray]  # a picture as the reward is trained on it, all of one size
_OF_PICTURES = ("squares", "pictures", "descriptions")  # batches of single pictures
_DESCRIBED = 64  # megabytes of descriptions
_PORTRAITS = 4  # every fourth picture to recognise is a portrait, of those that are not drawn
_EVERY = 2  # every other example is a drawn one, where some were drawn
_REMEDIES = {
    "annotations": "name an entry that annotates",
    "preferences": "name an entry that screens, or collects them",
}


def check_batches(context: Context, algorithm: Algorithm, training_set: TrainingSetOptions | None) -> None:
    """Raise InputError unless the entry has what the algorithm's batches are made of."""
    if (algorithm.batch in _OF_PICTURES) != (training_set is not None):
        rule = "a training set is what is recognised or described, and nothing else learns from one"
        remedy = "set it for 'recognition', 'picturing' or 'describing', or leave it out"
        raise InputError(f"{context.name}.training_set", rule, remedy)
    source = context.entry.get("source", "")
    if training_set:
        check_source(context, training_set)
    elif not (makes_annotations if algorithm.batch == "annotations" else makes_preferences)(context, source):
        rule = f"{context.entry.algorithm} learns from {algorithm.batch}"
        raise InputError(f"source {source!r}", rule, _REMEDIES[algorithm.batch])


def open_batches(
    context: Context, training_set: TrainingSetOptions | None, drawn: str, reward: PureReward, fitted: Fitted
) -> Batches:
    """What the entry learns from: its training set, every other example of what the entry `drawn` drew unless that is
    "", or what its source annotated or prefers. Raises InputError.
    """
    if training_set:
        examples = training_set.open()
        if drawn:
            # With another's portraits the picture alone tells what is in it.
            examples = WithDrawn(examples, DrawnExamples(context, drawn, alone=False, mixed=True), _EVERY)
        make = {"squares": _recognised, "pictures": partial(_described, alone=True), "descriptions": _described}
        algorithm = context.tables.algorithms[context.entry.algorithm]
        return make[algorithm.batch](examples, reward, fitted)
    make = _annotated_pairs if makes_annotations(context, context.entry.source) else _preferred_pairs
    return make(context, reward, fitted)


def _preferred_pairs(context: Context, reward: PureReward, fitted: Fitted) -> Batches:
    """Both pictures of each preference of the entry's source, and the context of its scene.

    Raises InputError for preferences on several aspects.
    """
    found, records = open_preferences(context, context.entry.source)
    aspects = sorted({preference.aspect for preference in found})
    if len(aspects) > 1:
        rule = "one reward learns what is preferred on one of them"
        raise InputError(f"preferences on {', '.join(aspects)}", rule, "give those of one aspect")

    def make_batch(indices):
        asked = [found[i] for i in indices]
        chosen, rejected = (
            [records.candidate(id) for id in ids]
            for ids in ([each.chosen_id for each in asked], [each.rejected_id for each in asked])
        )
        batch = {
            "chosen": _pictures(chosen, fitted),
            "rejected": _pictures(rejected, fitted),
            "context": reward.encode([records.scene(candidate.scene_id) for candidate in chosen]),
            "tie": np.array([preference.tie for preference in asked]),
        }
        return [label(preference) for preference in asked], batch

    return Batches(len(found), make_batch)


def _annotated_pairs(context: Context, reward: PureReward, fitted: Fitted) -> Batches:
    """Both pictures of each pair that the entry's source annotated, their critiques, and which is better.

    Where `better` f32[b, aspects] is 1 the first one is, where it is -1 the second; 0 is a tie, NaN where nobody said.
    What a reward says aloud of Storybook's pictures is what the oracle sees in them.
    Raises InputError.
    """
    pairs = open_annotated(context, context.entry.source, reward.aspects)

    known = Memory(_DESCRIBED, len)  # a picture is in several pairs

    def describe(ids):
        pictures = [pairs.pictures.candidate(id) for id in ids]
        scenes = [pairs.pictures.scene(each.scene_id) for each in pictures]
        return describe_images(np.stack([each.image for each in pictures]), scenes)

    def make_batch(indices):
        ids = [pairs.ids[i] for i in indices]
        batch = {"better": pairs.better[indices]}
        for side, of in zip(("first", "second"), zip(*ids, strict=True), strict=True):
            candidates = [pairs.pictures.candidate(id) for id in of]
            batch[side] = _pictures(candidates, fitted)
            batch[f"{side}_critiques"] = reward.prompts.texts([pairs.said(id, reward.aspects) for id in of])
            if reward.prompts.room.aloud:
                batch[f"{side}_aloud"] = reward.prompts.aloud(known.look_up(of, describe))
        batch["context"] = reward.encode([pairs.pictures.scene(each.scene_id) for each in candidates])
        return [" and ".join(each) for each in ids], batch

    return Batches(len(pairs.ids), make_batch)


def _described(examples: Any, reward: PureReward, fitted: Fitted, alone: bool = False) -> Batches:
    """Pictures of a training set with their scenes, and what is said aloud of them: what the oracle sees; or `alone`,
    without their scenes, and how that begins.
    """

    def make_batch(indices):
        found = examples.batch(indices)
        scenes, pictures = [each.scene for each in found], [each.target for each in found]
        batch = {"pictures": to_float(np.stack(list(map(fitted, pictures))))}
        if alone:
            batch["context"] = reward.prompts.alone(len(found))
            batch["aloud"] = reward.prompts.pictured(describe_pictures(np.stack(pictures), scenes))
        else:
            batch["context"] = reward.encode(scenes)
            batch["aloud"] = reward.prompts.aloud(describe_images(np.stack(pictures), scenes))
        return [scene.id for scene in scenes], batch

    return Batches(len(examples), make_batch)


def _recognised(examples: Any, reward: PureReward, fitted: Fitted) -> Batches:
    """Pictures of a training set, for every fourth example the portrait of its first subject, and what their squares
    show.
    """
    side = reward.prompts.tower.side

    def make_batch(indices):
        found, shown = examples.batch(indices), np.array(examples.squares(indices, side))
        pictures, scenes = [each.target for each in found], [each.scene for each in found]
        for row, index in enumerate(indices):
            if index % _PORTRAITS == 1:
                pictures[row], shown[row] = scenes[row].subjects[0].images[0], see_portrait(scenes[row], side)
        batch = {"pictures": to_float(np.stack(list(map(fitted, pictures)))), "squares": shown}
        return [scene.id for scene in scenes], batch

    return Batches(len(examples), make_batch)


def _pictures(candidates, fitted):
    return to_float(np.stack([fitted(candidate.image) for candidate in candidates]))
