"""Algorithms by name."""

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.algorithms.contrastive import Contrastive
from narrative_jax.algorithms.critique import CritiqueModelling, Describing, Picturing
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.algorithms.recognition import Recognition
from narrative_jax.algorithms.refl import ReFL
from narrative_jax.algorithms.reward_modelling import RewardModelling
from narrative_jax.algorithms.segmentation import Segmentation
from narrative_jax.algorithms.sft import SFT

ALGORITHMS: dict[str, type[Algorithm]] = {
    "sft": SFT,
    "dpo": DPO,
    "refl": ReFL,
    "contrastive": Contrastive,
    "reward_modelling": RewardModelling,
    "recognition": Recognition,
    "picturing": Picturing,
    "describing": Describing,
    "critique": CritiqueModelling,
    "segmentation": Segmentation,
}
