"""What befalls pictures as such, whatever they show: noise and blur."""

import numpy as np

from narrative_jax.storybook.sets import SIZE


def noisy(pictures: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Pictures f32[b, 40, 40, 3] with normal noise of this deviation (of a range of 2), clipped to [-1, 1]."""
    return np.clip(pictures + deviation * rng.standard_normal(pictures.shape, np.float32), -1, 1)


def blurred(pictures: np.ndarray, deviation: float) -> np.ndarray:
    """Pictures f32[b, 40, 40, 3] after a Gaussian blur with edges extended; `deviation` in pixels."""
    if deviation == 0:
        return pictures
    at = np.arange(SIZE)
    reach = np.arange(-3 * int(np.ceil(deviation)), 3 * int(np.ceil(deviation)) + 1)
    weights = np.exp(-(reach**2) / (2 * deviation**2))
    mix = np.zeros((SIZE, SIZE), np.float32)
    np.add.at(mix, (at[:, None], np.clip(at[:, None] + reach, 0, SIZE - 1)), weights / weights.sum())
    return np.einsum("ij,bjkc,lk->bilc", mix, pictures, mix, optimize=True)
