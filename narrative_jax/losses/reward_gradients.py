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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def with_clipped_gradient(reward, limit, element_wise, params, images, context):
    """`reward(params, images, context)` f32[b]; where it is differentiated, each ∂R_i/∂image_i is clipped at `limit`.

    Its norm, or `element_wise` each of its numbers. UPER's clip at τ, whatever the loss then does with the rewards: the
    factor c_i with which R_i enters it scales the clipped gradient. Gradients for all but the images stay as they are.
    """
    return reward(params, images, context)


def _keep_pull(reward, limit, element_wise, params, images, context):
    return jax.vjp(reward, params, images, context)


def _clip_pull(reward, limit, element_wise, pull, factors):
    params, images, context = pull(factors)
    most = (limit * jnp.abs(factors)).reshape(-1, *[1] * (images.ndim - 1))
    if element_wise:
        return params, jnp.clip(images, -most, most).astype(images.dtype), context
    squares = jnp.square(jnp.float32(images)).sum(tuple(range(1, images.ndim)), keepdims=True)
    scale = jnp.minimum(1, most * jax.lax.rsqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny)))
    return params, (images * scale).astype(images.dtype), context


with_clipped_gradient.defvjp(_keep_pull, _clip_pull)
