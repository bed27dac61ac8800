"""What can be trained, by name."""

from narrative_jax.trainees.base import Trainee
from narrative_jax.trainees.encoder import EncoderTrainee
from narrative_jax.trainees.generator import GeneratorTrainee
from narrative_jax.trainees.reward import RewardTrainee
from narrative_jax.trainees.segmenter import SegmenterTrainee

TRAINEES: dict[str, type[Trainee]] = {
    "generator": GeneratorTrainee,
    "reward": RewardTrainee,
    "encoder": EncoderTrainee,
    "segmenter": SegmenterTrainee,
}
