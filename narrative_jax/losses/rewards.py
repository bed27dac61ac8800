"""What rewards go through on their way into a loss: z-scores over the batch, a limit to the pull on each picture."""

from functools import partial

import jax
import jax.numpy as jnp

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


@jax.custom_vjp
def clip_gradient(images, max_norm):
    """The same images [b, ...]; the gradient through them has at most the norm `max_norm`, a number or f32[b], in each.

    What comes back through an image is its part of the whole loss. A reward R that enters the loss with a factor c (its
    weight over its deviation and over b) has ∂R/∂image itself clipped at τ, as UPER does, by a `max_norm` of |c| · τ.
    """
    return images


def _keep_limit(images, max_norm):
    return images, max_norm


def _clip(max_norm, gradient):
    squares = jnp.square(jnp.float32(gradient)).sum(tuple(range(1, gradient.ndim)))
    scale = jnp.minimum(1, max_norm * jax.lax.rsqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny)))
    return (gradient * scale.reshape(-1, *[1] * (gradient.ndim - 1))).astype(gradient.dtype), None


clip_gradient.defvjp(_keep_limit, _clip)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def with_clipped_gradient(reward, max_norm, params, images, context):
    """`reward(params, images, context)` f32[b]; where it is differentiated, each ∂R_i/∂image_i has at most this norm.

    UPER's clip at τ, whatever the loss then does with the rewards: the factor c_i with which R_i enters it scales the
    clipped gradient. Gradients for all but the images stay as they are.
    """
    return reward(params, images, context)


def _keep_pull(reward, max_norm, params, images, context):
    return jax.vjp(reward, params, images, context)


def _clip_pull(reward, max_norm, pull, factors):
    params, images, context = pull(factors)
    return params, _clip(max_norm * jnp.abs(factors), images)[0], context


with_clipped_gradient.defvjp(_keep_pull, _clip_pull)
