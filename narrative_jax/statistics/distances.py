"""How far two sets of pictures are from each other, by features of them."""

from dataclasses import dataclass

import numpy as np

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.statistics.intervals import Interval, as_numbers


@dataclass(frozen=True)
class Moments:
    """How many features there were, their mean f64[d] and the sum of their squared deviations f64[d, d].

    Batch by batch, without keeping them: Chan et al. 1983.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features) -> "Moments":
        """Of a batch f[n, d]. Raises InputError unless there is one, and finite."""
        features = as_numbers("features", features, ("pictures", "features"))
        centred = features - features.mean(0)
        return cls(len(features), features.mean(0), centred.T @ centred)

    def __add__(self, other: "Moments") -> "Moments":
        """Of both together."""
        count, apart = self.count + other.count, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """f64[d, d]. Raises InputError for a single picture."""
        if self.count < 2:
            raise InputError(f"{self.count} picture", "a covariance is one of two or more", "give more")
        return self.scatter / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """|μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½), of features that are taken for normal (FID, Heusel et al. 2017).

    It shrinks as pictures get more: only sets of the same size compare. Raises InputError for single pictures.
    """
    root = _root(one.covariance)
    shared = np.linalg.eigvalsh(root @ other.covariance @ root)
    traces = np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.sqrt(shared.clip(0)).sum()
    return float(((one.mean - other.mean) ** 2).sum() + traces)


def kernel_distance(one, other, subsets: int = 100, size: int = 100, seed: int = 0) -> Interval:
    """Unbiased squared maximum mean discrepancy of features f[n, d] and f[m, d] by (x · y / d + 1)³, KID.

    The mean over random `subsets` of so large a `size`, at most half of either set, and what 95 % of them reach
    (Bińkowski et al. 2018): about 0 where both are pictures of one kind, whatever their number. Raises InputError for
    fewer than four.
    """
    one, other = (as_numbers("features", each, ("pictures", "features")) for each in (one, other))
    check_count("size", size, minimum=2)
    fewest = min(len(one), len(other))
    size = min(size, fewest // 2)
    if size < 2:
        raise InputError(f"{fewest} pictures", "halves of four or more are compared", "give more")
    check_count("subsets", subsets, minimum=2)
    rng = np.random.default_rng(seed)
    found = [_discrepancy(*(each[rng.permutation(len(each))[:size]] for each in (one, other))) for _ in range(subsets)]
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(float(np.mean(found)), float(low), float(high))


def _discrepancy(x, y):
    n = len(x)
    within = sum(np.sum(kernel := _kernel(each, each)) - np.trace(kernel) for each in (x, y)) / (n * (n - 1))
    return within - 2 * _kernel(x, y).mean()


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
