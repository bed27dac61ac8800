"""Walk the flow from noise to data."""

import jax
import jax.numpy as jnp

from narrative_jax.core.errors import check_name

METHODS = ("euler", "heun")


def sample(velocity, noise, timesteps, method="euler", followed=None, stop=None):
    """Latents f32[b, ...] at the last time: solves dx/dt = velocity(x, t) from `noise` [b, ...] along f32[n + 1] times.

    `velocity` maps noisy latents and t f32[b] to the velocity. Heun takes the mean of the slopes at both ends of a
    step, at twice the cost, and is of second order; its last step is Euler's (Karras et al. 2022, algorithm 1), since
    at t = 0 a clean prediction has no velocity. `followed` bool[n] chooses the steps whose velocity is differentiated,
    which are worked out again on the way back; that of the others is a constant, so that they cost no memory. None
    leaves differentiation as it is. With `stop` i32[] the latents after so many steps, without gradient; what comes
    later is not worked out. Raises InputError.
    """
    check_name("sampler", method, METHODS)

    def slope(noisy, t):
        return jnp.float32(velocity(noisy, jnp.full(noisy.shape[:1], t)))

    def move(noisy, t, after):
        first = slope(noisy, t)
        ahead = noisy + (after - t) * first
        if method == "heun":
            ahead = jax.lax.cond(
                after > 0, lambda: noisy + (after - t) * (first + slope(ahead, after)) / 2, lambda: ahead
            )
        return ahead

    @jax.checkpoint  # around the cond too: the weights would else be kept once for every step
    def move_where(follow, noisy, t, after):
        still = jax.lax.stop_gradient(noisy)
        return jax.lax.cond(
            follow,
            jax.checkpoint(lambda: move(noisy, t, after)),
            lambda: noisy + jax.lax.stop_gradient(move(still, t, after) - still),
        )

    def step(noisy, now):
        t, after, follow = now
        return move(noisy, t, after) if follow is None else move_where(follow, noisy, t, after), None

    timesteps = jnp.float32(timesteps)
    if stop is not None:
        return jax.lax.fori_loop(
            0, stop, lambda i, noisy: move(noisy, timesteps[i], timesteps[i + 1]), jnp.float32(noise)
        )
    clean, _ = jax.lax.scan(step, jnp.float32(noise), (timesteps[:-1], timesteps[1:], followed))
    return clean
