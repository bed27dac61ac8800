"""Distances of sets of pictures, against what is known of normal features and against scipy."""

import numpy as np
import pytest
from scipy import linalg

from narrative_jax.core.errors import InputError
from narrative_jax.statistics.distances import Moments, _discrepancy, frechet_distance, kernel_distance

RANDOM = np.random.default_rng(0)


def features(count, shift=0.0, scale=1.0, width=6):
    mixing = np.random.default_rng(1).normal(size=(width, width))
    return scale * RANDOM.normal(size=(count, width)) @ mixing + shift


def test_moments_do_not_depend_on_how_features_come():
    """Also far from zero, where a sum of squares would lose all of its digits in float32."""
    whole = features(1000) + 1e4
    first, *rest = (Moments.of(np.float32(whole)[rows]) for rows in np.split(np.arange(1000), (1, 10, 400)))
    found = sum(rest, first)
    np.testing.assert_allclose(found.mean, np.float32(whole).mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(np.float64(np.float32(whole)).T), rtol=1e-8)
    assert found.count == 1000


def test_the_frechet_distance_is_that_of_the_definition():
    one, other = Moments.of(features(300)), Moments.of(features(200, 0.5, 1.5))
    root = linalg.sqrtm(one.covariance @ other.covariance).real
    expected = ((one.mean - other.mean) ** 2).sum()
    expected += np.trace(one.covariance + other.covariance - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_fewer_pictures_than_features():
    """Singular covariances: the distance of a set moved by a vector is its squared length."""
    few = features(4, width=6)
    assert frechet_distance(Moments.of(few), Moments.of(few + 2)) == pytest.approx(6 * 4, rel=1e-6)


def test_the_kernel_distance_has_no_bias():
    """Of one kind it is 0 on average however few there are, where the Fréchet distance is far from it."""
    small = [kernel_distance(features(20), features(20), subsets=2).estimate for _ in range(400)]
    assert abs(np.mean(small)) < 3 * np.std(small) / 20
    assert frechet_distance(Moments.of(features(20)), Moments.of(features(20))) > 1
    apart = kernel_distance(features(300), features(300, 1.0))
    assert apart.low > 0 and apart.low <= apart.estimate <= apart.high


def test_the_kernel_distance_by_hand():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 0.0]])

    def kernel(a, b):
        return (a @ b / 2 + 1) ** 3

    expected = kernel(x[0], x[1]) + kernel(y[0], y[1]) - sum(kernel(a, b) for a in x for b in y) / 2
    assert _discrepancy(x, y) == pytest.approx(expected)


def test_subsets_of_the_kernel_distance_differ_though_all_could_be_taken():
    """An interval of one and the same set again and again would be a point."""
    found = kernel_distance(features(40), features(40, 0.5))
    assert found.low < found.estimate - 0.01 and found.high > found.estimate + 0.01


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: Moments.of(np.zeros((0, 3))), "features of shape"),
        (lambda: Moments.of([[np.nan, 1.0]]), "in features"),
        (lambda: Moments.of([[1.0, 2.0]]).covariance, "1 picture: a covariance is one of two or more"),
        (lambda: kernel_distance(features(3), features(9)), "3 pictures: halves of four or more are compared"),
        (lambda: kernel_distance([[1.0], [2.0]], [[1.0], [2.0]], size=1), "size 1"),
    ],
)
def test_bad_input(compute, message):
    with pytest.raises(InputError, match=message):
        compute()
