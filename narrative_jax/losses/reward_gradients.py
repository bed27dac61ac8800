"""What rewards go through on their way into a loss: z-scores over the batch, a limit to the pull on each picture."""

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.diffusion.path import per_example

_TINY = np.finfo(np.float32).tiny
LEAST_DEVIATION = 0.1  # times the reward's calibration deviation


def z_score_statistics(rewards, calibration_deviation):
    """Mean and deviation of each of the rewards f32[b, k] over the global batch, f32[k] each.

    The deviation is the population's, and at least 0.1 × that of the calibration set, f32[k]: a reward that hardly
    varies, or a batch of one, would else have its gradient multiplied without bound.
    """
    rewards = jnp.float32(rewards)
    least = LEAST_DEVIATION * jnp.float32(calibration_deviation)
    return rewards.mean(0), jnp.maximum(rewards.std(0), least)


def z_score(rewards, mean, deviation):
    """(rewards - mean) / deviation, f32[b, k]; both statistics f32[k] are constants for differentiation.

    With them differentiated, the mean of the z-scores would be zero whatever the rewards, and so its gradient. With
    them constant that mean is still zero over the batch they are of: log the raw rewards.
    """
    mean, deviation = (jax.lax.stop_gradient(jnp.float32(value)) for value in (mean, deviation))
    return (jnp.float32(rewards) - mean) / deviation


def clipped_pull(gradient, limit, element_wise=False):
    """The gradient f32[b, ...] of each reward on its own picture, its norm at most `limit`; UPER's clip at τ.

    `element_wise`: each of its numbers instead. It comes before what the loss makes of the reward: deviation, weight
    and the mean over the batch.
    """
    if element_wise:
        return jnp.clip(gradient, -limit, limit)
    return gradient * per_example(jnp.minimum(1, limit / jnp.maximum(pull_norms(gradient), _TINY)), gradient)


def pull_norms(gradient):
    """Of gradients f32[b, ...] on pictures, f32[b]."""
    return jnp.sqrt(jnp.square(jnp.float32(gradient)).sum(tuple(range(1, gradient.ndim))))
