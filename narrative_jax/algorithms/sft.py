"""Supervised training of a flow on pictures: flow matching, also used from scratch."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from narrative_jax.algorithms.base import Algorithm, Loss, drawn, summed
from narrative_jax.core.errors import check_share
from narrative_jax.diffusion.path import add_noise
from narrative_jax.losses.denoising import velocity_error


@dataclass(frozen=True)
class SFT(Algorithm):
    """Mean squared velocity error; what guidance compares with is learned on the way.

    A share `text_dropout` of the examples loses its text, a further share `subject_dropout` its text and its subjects.
    """

    batch: ClassVar[str] = "examples"
    text_dropout: float = 0.1
    subject_dropout: float = 0.0

    def __post_init__(self):
        for name in ("text_dropout", "subject_dropout"):
            check_share(name, getattr(self, name))
        check_share("text_dropout + subject_dropout", self.text_dropout + self.subject_dropout)

    def loss(self, models, batch, key) -> Loss:
        """`batch`: latents f32[b, ...], conditioning, index i32[b]."""
        model, params = models.policy
        clean = batch["latents"]
        t, noise, keys = drawn(model, key, batch, clean.shape[1:])
        place = jax.vmap(jax.random.uniform)(keys)
        textless = place < self.text_dropout + self.subject_dropout
        noisy = add_noise(clean, noise, t)
        asked = model.drop(batch["conditioning"], text=textless, subjects=place < self.subject_dropout)
        prediction = model.denoise(params, noisy, t, asked, None)
        error = velocity_error(prediction, clean, noise, noisy, t, prediction_type=model.prediction_type)
        return summed(error, error=error)
