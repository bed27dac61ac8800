"""The reward that an entry names: built from its options, read from what an earlier entry trained, or put together."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import devices_of_batch, make_mesh, own_mesh
from narrative_jax.core.options import File, files_in, parse
from narrative_jax.data.datasets import Records
from narrative_jax.rewards.base import (
    ASPECTS,
    BATCH_SIZE,
    HostReward,
    OnHost,
    PureReward,
    WithWeights,
    check_differentiable,
)
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.ensemble import Ensemble, PerAspect, Term, per_aspect
from narrative_jax.runs.answers import keeping_answers
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scenes import characters_of, check_characters
from narrative_jax.runs.scores import calibration_path
from narrative_jax.runs.trained_rewards import trainable_reward, trained_reward

PER_ASPECT = PerAspect.name  # its section names a pure reward for each aspect
ENSEMBLE = Ensemble.name  # its section gives weights to score entries, whose rewards it adds up; see `TermOptions`
TRAINED = "trained"  # what a train entry made, the one that the entry's `reward_from` names
BUILD, ABSTRACT = "build", "abstract"  # methods of a reward's options: it as it is, or without files to be planned with
_CONTROLS = "critiques_from", "control"  # see `critiques.CritiqueOptions`


@dataclass(frozen=True)
class RewardOptions:
    """Which reward judges; its options stand in the entry's section of its name.

    A pure reward scores `batch_size` pictures at a time, over the config's mesh; of several processes each
    scores its share on its own devices.
    """

    reward: str
    reward_from: str = ""
    batch_size: int | None = None


@dataclass(frozen=True)
class TermOptions:
    """A term of an ensemble: a weight, or a section with these options; see `ensemble.Term`."""

    weight: float
    clip: float | None = None
    element_wise: bool = False


def sections_of(context: Context) -> list[str]:
    """The names of the sections of rewards in the context's entry.

    Those of others than the one that it names may stay: a command line can choose another, but remove nothing.
    """
    known = [*context.tables.rewards, PER_ASPECT, ENSEMBLE]
    return [*_chosen(context), *(name for name in known if name in context.entry)]


def check_reward(context: Context, own: bool) -> HostReward:
    """`describe_reward`. Raises InputError for an unknown one or option, and for one that cannot judge people's `own`
    scenes, or compares fewer subjects than Storybook's scenes in the config have.
    """
    reward = describe_reward(context)
    if own and reward.needs_facts:
        rule = f"it judges Storybook's own scenes only, not {context.config.get('scenes', '') or 'what was collected'}"
        raise InputError(f"reward {reward.name!r}", rule, "use the reward 'picture_statistics'")
    if not own:
        check_characters(reward, context.name, characters_of(context.config), "characters")
    return reward


def same_reward(context: Context, other: Context) -> bool:
    """Whether two entries have one reward, options and all."""
    keys = ("reward", "reward_from", *_CONTROLS, *_chosen(context))
    return all(context.entry.get(key, "") == other.entry.get(key, "") for key in keys)


def seen_by(context: Context) -> set[str]:
    """By what the context's reward sees pictures: the name of its encoder; of an ensemble those of its terms.

    Raises InputError.
    """
    if context.entry.reward == ENSEMBLE:
        return set().union(*(seen_by(context.of(term)) for term in context.entry[ENSEMBLE]))
    reward = _named(context, from_disk=False)
    clip = getattr(reward, "clip", None)
    return {f"clip_{clip.name}" if clip else getattr(reward, "encoder", reward).name}


def check_reward_of(context: Context, name: str, own: bool) -> None:
    """`check_reward` of a score entry whose reward another entry takes. Raises InputError also where that would be
    another one than its scores are of.
    """
    _check_uncontrolled(context, name)
    check_reward(context.of(name), own)


def _check_uncontrolled(context, name):
    for key in _CONTROLS:
        if value := context.config[name].get(key, ""):
            rule = "a reward is taken from entries that score with it as it is"
            raise InputError(f"{name}.{key} {value!r}", rule, "name another score entry")


def describe_reward(context: Context) -> HostReward:
    """The reward of the context's entry to be looked at: no weights are read, and nothing of the run directory."""
    return _on_host(context, _named(context, from_disk=False))


def open_reward(context: Context, candidates: Records | None = None) -> HostReward:
    """The reward of the context's entry, its weights read and spread over the mesh; a model's answers stay in the run.
    Raises InputError.

    Where the `candidates` that it shall judge are given, none of their pictures may be too small for it: that is told
    before weights are read.
    """
    reward = _on_host(context, _named(context, from_disk=True))
    if isinstance(reward, OnHost):
        if candidates is not None:
            for name, size in zip(candidates.columns("id")["id"], candidates.picture_sizes(), strict=True):
                reward.check_size(name, *size)
        reward.load()
    return keeping_answers(context, reward)


def open_pure_reward(context: Context, from_disk: bool = True) -> PureReward:
    """The reward of the context's entry for a loss, its weights over the run's mesh; or, not `from_disk`, to be looked
    at. Raises InputError for one that has no gradient.
    """
    reward = _named(context, from_disk)
    check_differentiable(reward)
    return WithWeights(reward, reward.laid(make_mesh(context.config.mesh))) if from_disk else reward


def check_followed(context: Context, name: str) -> None:
    """Raise InputError unless the reward that a train entry follows can judge the config's scenes, of Storybook."""
    reward = open_pure_reward(context.of(name), from_disk=False)
    check_characters(reward, name, characters_of(context.config), "characters")


def open_followed(context: Context, name: str) -> HostReward:
    """The reward that a train entry follows, as a judge of finished pictures, of as many at once as the context's, or
    the next number that divides over the devices.
    """
    mesh = own_mesh(context.config.mesh)
    rows, devices = context.entry.get("batch_size", None) or BATCH_SIZE, devices_of_batch(mesh)
    return OnHost(_named(context.of(name), from_disk=True), -(-rows // devices) * devices, mesh).load()


def abstract_reward(context: Context) -> PureReward:
    """The reward of the context's entry for a loss that is planned: of its weights there are shapes, without its files.

    Raises InputError for one that has no gradient or gives no shapes.
    """
    reward = _named(context, from_disk=False, build=ABSTRACT)
    check_differentiable(reward)
    return reward


def reward_files(context: Context) -> Iterator[File]:
    """The files that the reward of the context's entry is read from."""
    for name in _chosen(context):
        if name in context.tables.rewards:
            yield from files_in(_options(context, name))


def _chosen(context):
    """The sections of the reward that the entry names."""
    chosen = context.entry.get("reward", "")
    if chosen == PER_ASPECT:
        named = context.entry.get(PER_ASPECT, {})
        return [PER_ASPECT, *dict.fromkeys(named.values() if hasattr(named, "values") else ())]
    return [chosen] if chosen not in ("", TRAINED) else []


def _on_host(context, reward):
    size = context.entry.get("batch_size", None)
    if hasattr(reward, "score"):
        return OnHost(reward, BATCH_SIZE if size is None else size, own_mesh(context.config.mesh))
    if size is not None:
        rule = f"the reward {reward.name!r} works on the host, picture by picture"
        raise InputError(f"{context.name}.batch_size {size}", rule, "leave it out")
    return reward


def _named(context, from_disk, build=BUILD):
    reward = _made(context, from_disk, build)
    if build == ABSTRACT and not hasattr(reward, "shapes"):
        given = f"reward {context.entry.reward!r} of {context.name}"
        raise InputError(given, "a step is planned from shapes, and it gives none", "plan with another reward")
    return reward


def _made(context, from_disk, build):
    chosen, rewards = context.entry.get("reward", ""), context.tables.rewards
    check_name("reward", chosen, [*rewards, PER_ASPECT, TRAINED, ENSEMBLE])
    if chosen == TRAINED:
        return _trained(context, from_disk)
    if chosen == ENSEMBLE:
        return _ensemble(context, from_disk, build)
    return _per_aspect(context) if chosen == PER_ASPECT else _built(context, chosen, build)


def _options(context, name):
    return parse(context.tables.rewards[name], context.entry.get(name, {}), f"{context.name}.{name}")


def _built(context, name, build=BUILD):
    options = _options(context, name)
    return getattr(options, build)() if hasattr(options, build) else options


def _per_aspect(context):
    chosen = context.entry.get(PER_ASPECT, {})
    pure = [name for name, kind in context.tables.rewards.items() if hasattr(kind, "build")]
    for aspect, name in chosen.items():
        check_name(f"aspect of {context.name}.{PER_ASPECT}", aspect, ASPECTS)
        check_name("pure reward", name, pure)
    if missing := [aspect for aspect in ASPECTS if aspect not in chosen]:
        where = f"{context.name}.{PER_ASPECT}"
        raise InputError(f"{where} without {missing[0]!r}", "each aspect has a reward", f"set {where}.{missing[0]}")
    return per_aspect(**{aspect: _built(context, name) for aspect, name in chosen.items()})


def _trained(context, from_disk):
    # A score entry may name the same rewards.
    sections = {name: section for name, section in context.config.items() if getattr(section, "stage", None) == "train"}
    known = [name for name, section in sections.items() if section.get("trains", "") == "reward"]
    check_name("train entry in reward_from", context.entry.get("reward_from", ""), known)
    trained = context.of(context.entry.reward_from)
    return trained_reward(trained) if from_disk else trainable_reward(trained).untrained(context.config.seed)[0]


def _ensemble(context, from_disk, build):
    weights, terms = context.entry.get(ENSEMBLE, {}), {}
    if not weights or not hasattr(weights, "items"):
        given, rule = f"ensemble {weights or 'of nothing'}", "it gives weights to score entries"
        raise InputError(given, rule, 'set its section, e.g. {"by_clip": 0.2, "by_identity": 0.4}')
    scores = [name for name, section in context.config.items() if getattr(section, "stage", None) == "score"]
    for name, weight in weights.items():
        check_name("score entry of an ensemble", name, scores)
        _check_uncontrolled(context, name)
        reward = None if context.config[name].reward == ENSEMBLE else _named(context.of(name), from_disk, build)
        if not hasattr(reward, "score"):
            given = f"ensemble of {name!r}, which is {context.config[name].reward!r}"
            rule = "its terms are networks, not rewards that work on the host, and no ensembles"
            raise InputError(given, rule, "name other entries")
        calibration = _calibration(calibration_path(context, name), reward, from_disk)
        terms[name] = Term(reward, calibration, **asdict(_term_options(context, name, weight)))
    return Ensemble(terms)


def _term_options(context, name, given):
    section = given if hasattr(given, "items") else {"weight": given}
    return parse(TermOptions, section, f"{context.name}.{ENSEMBLE}.{name}")


def _calibration(path: Path, reward, from_disk):
    if from_disk:
        return Calibration.load(path, reward)
    return Calibration(reward.name, reward.aspects, [math.nan], [math.nan], "")
