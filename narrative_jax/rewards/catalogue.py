"""Rewards by name: each by its options, those that work on the host by themselves."""

from narrative_jax.rewards.aesthetic import AestheticOptions, NewAesthetic
from narrative_jax.rewards.clip_scores import ClipCosineOptions, ClipScoreOptions, HpsV2Options, PickScoreOptions
from narrative_jax.rewards.http_judge import HttpJudge
from narrative_jax.rewards.identity import IdentityOptions
from narrative_jax.rewards.new_nireward import NewNIReward
from narrative_jax.rewards.new_scalar import NewScalar
from narrative_jax.rewards.nireward_files import NIRewardOptions
from narrative_jax.rewards.oracle import Oracle, Presence
from narrative_jax.rewards.picture_statistics import PictureStatistics
from narrative_jax.rewards.raters import Raters
from narrative_jax.rewards.scalar_files import ScalarOptions
from narrative_jax.rewards.subject_consistency import SubjectConsistencyOptions

REWARDS: dict[str, type] = {
    "oracle": Oracle,
    "presence": Presence,
    "raters": Raters,
    "picture_statistics": PictureStatistics,
    "http_judge": HttpJudge,
    "clip_cosine": ClipCosineOptions,
    "clip_score": ClipScoreOptions,
    "hps_v2": HpsV2Options,
    "pick_score": PickScoreOptions,
    "aesthetic": AestheticOptions,
    "subject_consistency": SubjectConsistencyOptions,
    "identity": IdentityOptions,
    "scalar": ScalarOptions,
    "nireward": NIRewardOptions,
}
TRAINABLE_REWARDS: dict[str, type] = {
    "scalar": NewScalar,
    "aesthetic": NewAesthetic,
    "nireward": NewNIReward,
}
