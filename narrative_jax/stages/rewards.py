"""The rewards that an entry may name; their options are the entry's section of that name."""

import math
from collections.abc import Callable
from pathlib import Path

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import make_mesh
from narrative_jax.models.clip import CLIP_SIZES
from narrative_jax.models.shipped import weights_file
from narrative_jax.rewards.aesthetic import load_aesthetic
from narrative_jax.rewards.base import HostReward, OnHost, PureReward
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.clip_scores import ClipCosine, ClipScore, HpsV2, PickScore, load_clip
from narrative_jax.rewards.ensemble import Ensemble, PerAspect, Term, per_aspect
from narrative_jax.rewards.http_judge import HttpJudge
from narrative_jax.rewards.identity import Identity
from narrative_jax.rewards.oracle import Oracle
from narrative_jax.rewards.picture_statistics import PictureStatistics
from narrative_jax.rewards.raters import Raters
from narrative_jax.rewards.scalar import load_scalar
from narrative_jax.rewards.subject_consistency import Crops, Grid, SubjectConsistency
from narrative_jax.rewards.subjects import load_dinov2, load_iresnet
from narrative_jax.stages.common import call
from narrative_jax.stages.reward_training import NEW, new_reward

FORMS = {"grid": Grid, "crops": Crops}
ENCODERS = {"dinov2": load_dinov2, "iresnet": load_iresnet}


def _clip(weights, size):
    check_name("size of CLIP", size, CLIP_SIZES)
    return load_clip(weights_file(weights, size, "clip"), size)


def _clip_cosine(weights, size="ViT-L/14"):
    return ClipCosine(_clip(weights, size))


def _clip_score(weights, size="ViT-L/14"):
    return ClipScore(_clip(weights, size))


def _hps_v2(weights, size="ViT-H/14"):
    return HpsV2(_clip(weights, size))


def _pick_score(weights, size="ViT-H/14"):
    return PickScore(_clip(weights, size))


def _aesthetic(clip, head, version="v2"):
    return load_aesthetic(weights_file(clip, version, "clip"), weights_file(head, version, "aesthetic"), version)


def _subject_consistency(
    weights,
    size="ViT-B/14",
    form="crops",
    patches=None,
    side=512,
    penalty=0.0,
    threshold=1.0,
    max_subjects=1,
    regions=(),
):
    check_name("form of subject_consistency", form, FORMS)
    patches = call(f"form {form}", FORMS[form], patches or {})
    encoder, regions = load_dinov2(weights_file(weights, size, "dinov2"), size), tuple(map(tuple, regions))
    return SubjectConsistency(encoder, patches, side, penalty, threshold, max_subjects, regions)


def _identity(weights, encoder="dinov2", size="ViT-B/14", side=224, max_subjects=1, regions=(), landmarks=False):
    check_name("encoder of identity", encoder, ENCODERS)
    seen_by = ENCODERS[encoder](weights_file(weights, size, encoder), size)
    return Identity(seen_by, side, max_subjects, tuple(map(tuple, regions)), landmarks)


def _scalar(weights):
    return load_scalar(weights_file(weights))


HOST = {reward.name: reward for reward in (Oracle, Raters, PictureStatistics, HttpJudge)}
PURE: dict[str, Callable[..., PureReward]] = {
    "clip_cosine": _clip_cosine,
    "clip_score": _clip_score,
    "hps_v2": _hps_v2,
    "pick_score": _pick_score,
    "aesthetic": _aesthetic,
    "subject_consistency": _subject_consistency,
    "identity": _identity,
    "scalar": _scalar,
}
PER_ASPECT = PerAspect.name  # its section names a pure reward for each aspect
ENSEMBLE = Ensemble.name  # its section gives weights to score entries, whose rewards it adds up by their calibrations
TRAINED = "trained"  # what a train entry made, the one that the entry's `reward_from` names


def make_reward(config, entry, workdir: Path | None = None) -> HostReward:
    """The reward that an entry names; a pure one scores `entry.batch_size` pictures at a time, over the config's mesh.

    Weights are read when they are first needed; those of a train entry lie in `workdir`, without one the reward can be
    looked at but cannot score. Raises InputError.
    """
    check_name("reward", entry.reward, [*HOST, *PURE, PER_ASPECT, TRAINED, ENSEMBLE])
    if entry.reward in HOST:
        return call(f"reward {entry.reward}", HOST[entry.reward], entry.get(entry.reward, {}))
    reward = (_ensemble if entry.reward == ENSEMBLE else _single)(config, entry, workdir)
    return OnHost(reward, entry.get("batch_size", None), make_mesh(config.mesh))


def _ensemble(config, entry, workdir):
    weights, terms = entry.get(ENSEMBLE, {}), {}
    if not weights or not hasattr(weights, "items"):
        given, rule = f"ensemble {weights or 'of nothing'}", "it gives weights to score entries"
        raise InputError(given, rule, 'set its section, e.g. {"by_clip": 0.2, "by_identity": 0.4}')
    scores = [name for name, section in config.items() if getattr(section, "stage", None) == "score"]
    for name, weight in weights.items():
        check_name("score entry of an ensemble", name, scores)
        if config[name].reward in (*HOST, ENSEMBLE):
            rule = "its terms are networks, not rewards that work on the host, and no ensembles"
            raise InputError(f"ensemble of {name!r}, which is {config[name].reward!r}", rule, "name other entries")
        reward = _single(config, config[name], workdir)
        nothing_yet = Calibration(reward.name, reward.aspects, [math.nan], [math.nan], "")
        calibrated = Calibration.load(workdir / name / "calibration.json", reward) if workdir else nothing_yet
        terms[name] = Term(reward, calibrated, weight)
    return Ensemble(terms)


def _single(config, entry, workdir):
    return _trained(config, entry, workdir) if entry.reward == TRAINED else pure_reward(entry)


def _trained(config, entry, workdir):
    # A score entry may name the same rewards.
    sections = {name: section for name, section in config.items() if getattr(section, "stage", None) == "train"}
    trains = [name for name, section in sections.items() if section.get("reward", None) in NEW]
    check_name("train entry of a reward", entry.get("reward_from", ""), trains)
    new = new_reward(config[entry.reward_from], config.seed)
    return new.reward if workdir is None else new.load(workdir / entry.reward_from)


def pure_reward(entry) -> PureReward:
    """The pure reward that an entry names. Raises InputError, also for one that only works on the host."""
    if entry.reward != PER_ASPECT:
        return _named(entry, entry.reward)
    chosen = entry.get(PER_ASPECT, {})
    rewards = {aspect: _named(entry, name) for aspect, name in chosen.items()}
    return call(f"reward {PER_ASPECT}", per_aspect, rewards)


def _named(entry, name):
    check_name("pure reward", name, PURE)
    return call(f"reward {name}", PURE[name], entry.get(name, {}))
