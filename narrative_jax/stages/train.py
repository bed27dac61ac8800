"""Trains what an entry names, with the algorithm it names, on what earlier entries left or on a training set."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import jax
import numpy as np

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.algorithms.contrastive import Contrastive
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.algorithms.reward_modelling import RewardModelling
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core.errors import InputError, check_name, check_share
from narrative_jax.core.files import write_bytes
from narrative_jax.core.images import fit_image, grid, png
from narrative_jax.core.mesh import check_batch, make_mesh
from narrative_jax.core.types import Params
from narrative_jax.data.loader import batches
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.generators.presets import adapter_shapes
from narrative_jax.generators.sampling import Drawer, Sampling, candidate_seed
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.flow_transformer import FLUX_NAMES
from narrative_jax.models.lora import adapter_of, fingerprint, save_adapter
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.stages.base import Context
from narrative_jax.stages.batches import examples, matches, pairs, preferences
from narrative_jax.stages.common import ADAPTER, WEIGHTS, base_generator, check_generator, some_scenes
from narrative_jax.stages.encoders import ENCODERS, caption_tokenizer, new_encoder
from narrative_jax.stages.reward_training import new_reward
from narrative_jax.training.loop import Schedule, train
from narrative_jax.training.optimizer import Optimizer
from narrative_jax.training.step import Trainee, TrainState, make_step, new_state

INPUTS = ("source",)
ALGORITHMS = {"sft": SFT, "dpo": DPO, "contrastive": Contrastive, "reward_modelling": RewardModelling}
_SAMPLES = 6  # scenes in a sample grid


def check(config, entry) -> None:
    """Raise InputError for an unknown algorithm or option, and a batch that does not divide the mesh."""
    algorithm = make_algorithm(entry)
    if algorithm.trains_on in OTHERS:
        _check_other(entry, algorithm)
    else:
        check_generator(config)
        if entry.adapter.rank:
            adapter_shapes(config.generator.preset, "checked", entry.adapter.to_dict())
    make_optimizer(entry)
    Schedule(entry.total_steps, entry.save_every, entry.sample_every)
    _check_source(config, entry, algorithm)
    check_share("ema_decay", entry.ema_decay)
    check_batch("batch_size", entry.batch_size, make_mesh(config.mesh), entry.accumulate)
    if algorithm.needs_reference and not entry.adapter.rank:
        rule = f"{entry.algorithm} keeps a reference: the stack without the adapter that is trained"
        raise InputError(f"adapter.rank {entry.adapter.rank}", rule, "set a rank, e.g. 16")
    if algorithm.whole_batch and entry.accumulate > 1:
        rule = f"{entry.algorithm} compares the examples of a whole batch"
        raise InputError(f"accumulate {entry.accumulate}", rule, "set it to 1")


def _check_other(entry, algorithm):
    """Of what trains something else than the generator: the rest of its options would mean nothing."""
    if algorithm.trains_on == "matches":
        check_name("encoder", entry.get("encoder", None), ENCODERS)
    else:
        new_reward(entry, 0)
    for name, value in {"adapter.rank": entry.adapter.rank, "sample_every": entry.sample_every}.items():
        if value:
            raise InputError(f"{name} {value}", "only generators have adapters and draw samples", "set it to 0")


def _check_source(config, entry, algorithm):
    if algorithm.trains_on == "matches" and entry.source:
        raise InputError(f"source {entry.source!r}", "encoders train on a Storybook training set", 'set it to ""')
    if not entry.source and algorithm.trains_on in ("pairs", "preferences"):
        raise InputError("source ''", f"{entry.algorithm} trains on preferences", "name the entry that makes them")
    if not entry.source:
        storybook_training_set(**entry.training_set)
        return
    source = config.get(entry.source, {})
    collects = "preferences" in source
    if source.get("stage", "") != "screen" and not collects:
        rule = "that entry makes no preferences"
        raise InputError(f"source {entry.source!r}", rule, "name one that screens, or collects them")
    if collects and algorithm.trains_on != "preferences":
        rule = "generators train on screened candidates, which have the generator's size and a gap of scores"
        raise InputError(f"source {entry.source!r}", rule, "train a reward on it, and screen by that")


def make_algorithm(entry) -> Algorithm:
    """The algorithm with the entry's hyper-parameters. Raises InputError."""
    check_name("algorithm", entry.algorithm, ALGORITHMS)
    algorithm = ALGORITHMS[entry.algorithm]
    for name in entry.hyper:
        check_name(f"hyper-parameter of {entry.algorithm}", name, [field.name for field in fields(algorithm)])
    return algorithm(**entry.hyper)


def make_optimizer(entry) -> Optimizer:
    """The optimiser with the entry's settings. Raises InputError."""
    known = [field.name for field in fields(Optimizer) if field.name != "total_steps"]
    for name in entry.optimizer:
        check_name("optimizer setting", name, known)
    return Optimizer(total_steps=entry.total_steps, **entry.optimizer)


def run(context: Context) -> dict[str, float]:
    """Train to the last step and leave the averaged weights, all of them or the adapter's.

    Returns the last numbers and how often the step was compiled. Where screening left no pair and the config goes on,
    nothing is trained. Raises InputError, and Stopped after saving.
    """
    entry = context.entry
    algorithm, mesh, optimizer = make_algorithm(entry), make_mesh(context.config.mesh), make_optimizer(entry).build()
    if entry.source and not (context.path(entry.source) / "preferences").exists():
        print(f"{context.name}: nothing to train on, screening left no pair", flush=True)
        return {"step": 0}
    job = _prepare(context, algorithm)
    step = make_step(
        algorithm, job.trainee, optimizer, mesh,
        seed=context.config.seed + entry.seed, ema_decay=entry.ema_decay, accumulate=entry.accumulate,
    )  # fmt: skip
    order = batches(
        job.size, job.make_batch, entry.batch_size, context.config.seed + entry.seed,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    frozen = jax.device_put(job.trainee.frozen, step.frozen_shardings)
    schedule = Schedule(entry.total_steps, entry.save_every, entry.sample_every)
    state = new_state(job.trainee.params, optimizer)
    state = train(step, state, frozen, order, schedule, context.folder, context.stop, job.sample)
    job.save({name: np.asarray(value) for name, value in state.ema_params.items()})
    return {**last_numbers(context.folder), f"compile/{context.name}": step.run._cache_size()}


def last_numbers(folder: Path) -> dict[str, float]:
    """The numbers of the last step, from the disk: a run that was killed after it has them too."""
    *_, line = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {name: value for name, value in json.loads(line).items() if name != "step_seconds"}


@dataclass(frozen=True)
class _Job:
    """What is trained and on what; `sample` draws how far it is, `save` leaves the trained weights."""

    trainee: Trainee
    size: int
    make_batch: Callable
    sample: Callable[[int, TrainState], None]
    save: Callable[[Params], None]


def _prepare(context: Context, algorithm: Algorithm) -> _Job:
    if algorithm.trains_on in OTHERS:
        return OTHERS[algorithm.trains_on](context)
    entry = context.entry
    generator, base = base_generator(context)
    policy, weights, trained = generator, base, set(base)
    if entry.adapter.rank:
        policy, weights = generator.with_adapter(base, context.name, **entry.adapter)
        trained = {name for name in weights if adapter_of(name) == context.name}
    params = {name: value for name, value in weights.items() if name in trained}
    frozen = {name: value for name, value in weights.items() if name not in trained}
    trainee = Trainee(policy, generator if algorithm.needs_reference else None, params, frozen)
    size, make_batch = (pairs if algorithm.trains_on == "pairs" else examples)(context, generator)

    def save(params):
        if entry.adapter.rank:
            save_adapter(context.folder / ADAPTER, params, context.name, entry.adapter.to_dict(), fingerprint(base))
        else:
            save_weights(context.folder / WEIGHTS, params, FLUX_NAMES)

    return _Job(trainee, size, make_batch, _sampler(context, trainee), save)


def _encoder(context: Context) -> _Job:
    """One of Storybook's encoders, trained from scratch."""
    entry = context.entry
    seed, tokenizer = context.config.seed + entry.seed, partial(caption_tokenizer, **entry.training_set)
    encoder = new_encoder(entry.encoder, seed, tokenizer)
    size, make_batch = matches(context, encoder.pairs)
    trainee = Trainee(encoder, None, encoder.params, encoder.frozen)
    return _Job(trainee, size, make_batch, lambda step, state: None, partial(encoder.save, context.folder))


def _reward(context: Context) -> _Job:
    """A reward, and its calibration on the pictures of its preferences."""
    new = new_reward(context.entry, context.config.seed + context.entry.seed)
    size, make_batch = preferences(context, new.reward, new.fitted)

    def save(params):
        new.save(context.folder, {**new.frozen, **params})
        reward = new.load(context.folder)
        scores = _scores(reward, size, make_batch, context.entry.batch_size)
        Calibration.of(reward, scores, context.entry.source).save(context.folder / "calibration.json")

    trainee = Trainee(new.policy, None, new.params, new.frozen)
    return _Job(trainee, size, make_batch, lambda step, state: None, save)


def _scores(reward, size, make_batch, batch_size):
    """What a reward says of both pictures of each preference, f32[2 · size, aspects]."""
    run, scores = jax.jit(reward.score), []
    for start in range(0, size, batch_size):
        _, batch = make_batch(np.arange(start, start + batch_size) % size)  # always as many: one compilation
        kept = min(batch_size, size - start)
        scores += [run(reward.params, batch[side], batch["context"])[:kept] for side in ("chosen", "rejected")]
    return np.concatenate(scores)


# What else than the generator is trained, by what it is trained on.
OTHERS = {"matches": _encoder, "preferences": _reward}


def _sampler(context: Context, trainee: Trainee) -> Callable[[int, TrainState], None]:
    """Draws the same few tune scenes from the same noise each time: a row a scene, its subjects first."""
    entry, config = context.entry, context.config
    if not entry.sample_every:
        return lambda step, state: None
    generator = trainee.policy
    scenes, _ = some_scenes(config, "tune", _SAMPLES, 0, generator.max_subjects)
    jobs = [(scene, candidate_seed(config.seed, scene.id, place)) for scene in scenes for place in range(2)]
    sampling = Sampling(**{**config.sampling.to_dict(), "batch_size": len(jobs)})
    drawer = Drawer(generator, sampling, make_mesh(config.mesh))

    def sample(step, state):
        pictures = next(drawer.draw(drawer.place({**trainee.frozen, **state.ema_params}), jobs))
        rows = []
        for row, scene in enumerate(scenes):
            portraits = [fit_image(subject.images[0], pictures.shape[1]) for subject in scene.subjects]
            blank = np.full_like(pictures[:1], 255)
            portraits += list(blank) * (generator.max_subjects - len(portraits))
            rows.append([*portraits, *pictures[2 * row : 2 * row + 2]])
        (context.folder / "samples").mkdir(exist_ok=True)
        write_bytes(context.folder / "samples" / f"step-{step:06d}.png", png(grid(rows, scale=3)))

    return sample
