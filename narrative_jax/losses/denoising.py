"""How far a denoiser is from the truth, in velocity space whatever it predicts."""

import jax.numpy as jnp

from narrative_jax.diffusion.path import to_velocity


def velocity_residual(prediction, clean, noise, noisy, t, *, prediction_type):
    """Predicted minus true velocity, f32[b, ...]. Raises InputError.

    Prediction and truth are converted alike, so a clean prediction x̂ is off by (x - x̂) / max(t, T_FLOOR), and a
    perfect one by 0 at every t.
    """
    truths = {"velocity": jnp.float32(noise) - jnp.float32(clean), "clean": clean, "noise": noise}
    predicted = to_velocity(prediction, noisy, t, prediction_type)
    return predicted - to_velocity(truths[prediction_type], noisy, t, prediction_type)


def velocity_error(prediction, clean, noise, noisy, t, *, prediction_type):
    """Mean over non-batch elements of the squared error of the velocity, f32[b]. Raises InputError.

    Flow matching on the straight path (Lipman et al. 2023; Liu et al. 2023). For a clean prediction this is E_x / t²,
    with t floored at T_FLOOR.
    """
    residual = velocity_residual(prediction, clean, noise, noisy, t, prediction_type=prediction_type)
    return mean_square(residual)


def mean_square(residual):
    """Mean over non-batch elements of the square, f32[b]: the error of a residual [b, ...]."""
    return jnp.square(jnp.float32(residual)).mean(axis=tuple(range(1, jnp.ndim(residual))))
