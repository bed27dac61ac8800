"""Supervised training of a flow on pictures: flow matching, also used from scratch."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from narrative_jax.algorithms.base import Algorithm, Loss, example_keys, summed
from narrative_jax.core.errors import check_share
from narrative_jax.diffusion.path import add_noise
from narrative_jax.losses.denoising import velocity_error


@dataclass(frozen=True)
class SFT(Algorithm):
    """Mean squared velocity error; the text is dropped from a share `text_dropout` of the examples."""

    trains_on: ClassVar[str] = "examples"
    text_dropout: float = 0.1

    def __post_init__(self):
        check_share("text_dropout", self.text_dropout)

    def loss(self, models, batch, key) -> Loss:
        """`batch`: latents f32[b, ...], conditioning, index i32[b]."""
        model, params = models.policy
        clean = batch["latents"]

        def draw(key):
            time_key, noise_key, drop_key = jax.random.split(key, 3)
            t = model.timestep_distribution.sample(time_key, ())
            drop = jax.random.bernoulli(drop_key, self.text_dropout)
            return t, jax.random.normal(noise_key, clean.shape[1:]), drop

        t, noise, drop = jax.vmap(draw)(example_keys(key, batch))
        noisy = add_noise(clean, noise, t)
        prediction = model.denoise(params, noisy, t, model.drop_text(batch["conditioning"], drop))
        error = velocity_error(prediction, clean, noise, noisy, t, prediction_type=model.prediction_type)
        return summed(error, error=error)
