"""What a generator trains on, encoded: latents of pictures, conditioning of scenes.

Records are encoded once, before the first step, into arrays on the disk: a step reads rows of them, and needs neither
pictures nor text encoders. The examples of a training set, which are drawn when they are asked for, are encoded then.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.core import processes
from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.files import new_folder
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.generators.base import Generator
from narrative_jax.rewards.base import PureReward
from narrative_jax.runs.collected import check_collected
from narrative_jax.runs.directory import Context
from narrative_jax.runs.examples import check_leaves, open_examples, open_learned_scenes
from narrative_jax.runs.generator import preset_of
from narrative_jax.runs.preferences import label, open_preferences
from narrative_jax.runs.scenes import check_learned
from narrative_jax.runs.trained import check_after
from narrative_jax.trainees.base import Batches, TrainingSetOptions

ENCODED = "encoded"  # a folder of the entry, while it trains
_AT_ONCE = 64  # records encoded between two looks at the stop flag


def check_records(context: Context, algorithm: Algorithm, reward: PureReward | None) -> None:
    """Raise InputError for sources: one without what the algorithm trains on, pictures that are too small, examples
    with more subjects than the reward compares, and a train entry that this comes after and that leaves no generator.
    """
    check_after(context)
    source = context.entry.get("source", "")
    if not source and algorithm.batch == "preferences":
        rule = f"{context.entry.algorithm} trains on preferences"
        raise InputError(f"{context.name}.source ''", rule, "name the entry that makes them")
    if source:
        check_leaves(context, source, algorithm.batch)
        check_collected(context, source, preset_of(context).image_size)
    if reward:
        check_learned(context, reward)


def encoded_preferences(
    context: Context, generator: Generator, weights: Params, algorithm: Algorithm, reward: PureReward | None
) -> Batches:
    """Latents of both pictures, conditioning and gap of the preferences of the entry `source`; ties are left out.

    Raises InputError where there are only ties, and for gaps that the algorithm cannot train on.
    """
    preferences, records = open_preferences(context, context.entry.source)
    kept = [each for each in preferences if not each.tie]
    if len(kept) < len(preferences):
        ties = len(preferences) - len(kept)
        print(f"{context.name}: {ties} of {len(preferences)} preferences are ties: left out", flush=True)
    if not kept:
        remedy = "give some that prefer one picture"
        raise InputError(f"the preferences of {context.entry.source}", "all of them are ties", remedy)
    chosen_ids, rejected_ids = [each.chosen_id for each in kept], [each.rejected_id for each in kept]
    names = [label(each) for each in kept]
    unknown = [np.nan if each.gap is None else each.gap for each in kept]
    gaps = np.float32(algorithm.usable_gaps(np.array(unknown), names))

    latents, pictures = _latents(context, generator, weights, records, [*chosen_ids, *rejected_ids])
    chosen, rejected = np.split(pictures, 2)
    scene_ids = records.scene_ids(chosen_ids)
    asked, scenes = _conditioning(context, generator, weights, records.scene, scene_ids)

    def make_batch(indices):
        batch = {
            "chosen": latents[chosen[indices]],
            "rejected": latents[rejected[indices]],
            "conditioning": jax.tree.map(lambda x: x[scenes[indices]], asked),
            "gap": gaps[indices],
        }
        return [names[i] for i in indices], batch

    return _judged(Batches(len(kept), make_batch), reward, lambda i: records.scene(scene_ids[i]))


def encoded_examples(
    context: Context, generator: Generator, weights: Params, algorithm: Algorithm, reward: PureReward | None
) -> Batches:
    """Latents and conditioning: of what the entry `source` left to learn from, or of a training set's examples."""
    if not context.entry.get("source", ""):
        return _drawn(
            context,
            lambda scenes, targets: {
                "latents": generator.encode_images(weights, targets),
                "conditioning": generator.encode(weights, scenes),
            },
            reward,
        )
    records, ids = open_examples(context, context.entry.source)
    latents, pictures = _latents(context, generator, weights, records, ids)
    scene_ids = records.scene_ids(ids)
    asked, scenes = _conditioning(context, generator, weights, records.scene, scene_ids)

    def make_batch(indices):
        conditioning = jax.tree.map(lambda x: x[scenes[indices]], asked)
        batch = {"latents": latents[pictures[indices]], "conditioning": conditioning}
        return [ids[i] for i in indices], batch

    return _judged(Batches(len(ids), make_batch), reward, lambda i: records.scene(scene_ids[i]))


def encoded_scenes(
    context: Context, generator: Generator, weights: Params, algorithm: Algorithm, reward: PureReward | None
) -> Batches:
    """Conditioning alone: of the scenes that the entry `source` left to learn from, or of a training set's."""
    if not context.entry.get("source", ""):
        return _drawn(context, lambda scenes, _: {"conditioning": generator.encode(weights, scenes)}, reward)
    scene, ids = open_learned_scenes(context, context.entry.source)
    asked, scenes = _conditioning(context, generator, weights, scene, ids)

    def make_batch(indices):
        conditioning = jax.tree.map(lambda x: x[scenes[indices]], asked)
        return [ids[i] for i in indices], {"conditioning": conditioning}

    return _judged(Batches(len(ids), make_batch), reward, lambda i: scene(ids[i]))


KINDS = {"examples": encoded_examples, "preferences": encoded_preferences, "scenes": encoded_scenes}


def batch_shapes(kind: str, generator: Generator, rows: int, reward: PureReward | None = None) -> dict[str, Any]:
    """Shapes and types of a batch of so many records of a kind of `KINDS`; nothing is encoded."""

    def shaped(like):
        return jax.ShapeDtypeStruct((rows, *like.shape[1:]), like.dtype)

    latents = jax.ShapeDtypeStruct((rows, *generator.latent_shape), np.float32)
    batch = {"conditioning": jax.tree.map(shaped, generator.blank(1))}  # of one: many rows can be gigabytes
    if kind == "examples":
        batch |= {"latents": latents}
    if kind == "preferences":
        batch |= {"chosen": latents, "rejected": latents, "gap": jax.ShapeDtypeStruct((rows,), np.float32)}
    if reward:
        batch["context"] = jax.tree.map(shaped, reward.blank(1))
    return batch


def forget_encoded(context: Context) -> None:
    """Remove what was encoded: the entry is trained."""
    shutil.rmtree(context.folder / ENCODED, ignore_errors=True)


def _drawn(context, encode, reward):
    """Examples of the entry's training set, drawn when they are asked for; `encode` makes arrays of scenes, targets."""
    training_set = TrainingSetOptions(**context.entry.training_set).open()

    def make_batch(indices):
        drawn = training_set.batch(indices)
        scenes = [each.scene for each in drawn]
        return [scene.id for scene in scenes], encode(scenes, np.stack([each.target for each in drawn]))

    return _judged(Batches(len(training_set), make_batch), reward, lambda i: training_set[i].scene)


def _judged(batches: Batches, reward: PureReward | None, scene_of: Callable[[int], Scene]) -> Batches:
    """With the reward's `context` in each batch, where there is a reward."""
    if reward is None:
        return batches

    def make_batch(indices):
        ids, batch = batches.make(indices)
        return ids, {**batch, "context": reward.encode([scene_of(int(i)) for i in indices])}

    return Batches(batches.size, make_batch)


def _latents(context, generator, weights, records, ids):
    """Latents of these pictures, each once, fitted to the generator, and the row i[len(ids)] of each."""

    def encode(part):
        return generator.encode_images(weights, np.stack([generator.fit(records.candidate(id).image) for id in part]))

    like = np.zeros((1, *generator.latent_shape), np.float32)
    return _stored(context, "latents", ids, like, encode)


def _conditioning(context, generator, weights, scene_of, ids):
    """The conditioning of these scenes, each once, and the row i[len(ids)] of each."""

    def encode(part):
        return generator.encode(weights, [scene_of(id) for id in part])

    return _stored(context, "conditioning", ids, generator.blank(1), encode)


def _stored(
    context: Context, name: str, ids: Sequence[str], like: Any, encode: Callable[[Sequence], Any]
) -> tuple[Any, np.ndarray]:
    """What `encode` gives for the ids, each once, as arrays that are read from the disk, and the row of each id there.

    `like` is what it gives for one. Raises Stopped between two parts.
    """
    row_of = {id: row for row, id in enumerate(dict.fromkeys(ids))}
    folder = context.folder / ENCODED / name
    structure = jax.tree.structure(like)
    if context.writes and not folder.exists():
        with new_folder(folder) as unfinished:
            _encode_all(context, name, unfinished, list(row_of), like, encode)
    processes.wait_for_all(f"{context.name}: {name}")
    files = [folder / f"{place}.npy" for place in range(structure.num_leaves)]
    arrays = jax.tree.unflatten(structure, [np.load(file, mmap_mode="r") for file in files])
    return arrays, np.array([row_of[id] for id in ids])


def _encode_all(context, name, folder, ids, like, encode):
    arrays = [
        open_memmap(folder / f"{place}.npy", "w+", leaf.dtype, (len(ids), *leaf.shape[1:]))
        for place, leaf in enumerate(jax.tree.leaves(like))
    ]
    for start in tqdm(range(0, len(ids), _AT_ONCE), desc=f"{context.name} encodes {name}", unit="batch", mininterval=1):
        if context.stop.requested:
            raise Stopped
        part = ids[start : start + _AT_ONCE]
        for array, leaf in zip(arrays, jax.tree.leaves(encode(part)), strict=True):
            array[start : start + len(part)] = leaf
    for array in arrays:
        array.flush()
