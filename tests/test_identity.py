"""Matching of characters against scipy's, and its measures against numbers recomputed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from narrative_jax.core.errors import InputError
from narrative_jax.statistics import copy_paste, match_characters, matched_similarity, non_matched_similarity


@pytest.mark.parametrize("n, m", [(1, 1), (2, 2), (3, 4), (4, 2), (4, 4), (1, 4)])
def test_matching_is_scipys_among_those_who_are_there(n, m):
    rng = np.random.default_rng(0)
    similarity = np.float32(rng.uniform(-1, 1, (60, n, m)))
    seen, asked = rng.random((60, n)) < 0.7, rng.random((60, m)) < 0.7
    matching = np.asarray(jax.jit(match_characters)(similarity, seen, asked))
    expected = np.zeros_like(matching)
    for i in range(60):
        rows, columns = np.flatnonzero(seen[i]), np.flatnonzero(asked[i])
        chosen = linear_sum_assignment(similarity[i][np.ix_(rows, columns)], maximize=True)
        expected[i, rows[chosen[0]], columns[chosen[1]]] = True
    np.testing.assert_array_equal(matching, expected)
    assert expected.any()


def test_the_sum_decides_and_not_the_greatest():
    """0.9 + 0.1 < 0.8 + 0.7; and two unlike characters are matched all the same."""
    everyone = np.ones(2, bool)
    matching = match_characters(np.float32([[0.9, 0.8], [0.7, 0.1]]), everyone, everyone)
    np.testing.assert_array_equal(matching, [[False, True], [True, False]])
    matching = match_characters(np.float32([[-0.5, -0.9], [-0.9, -0.5]]), everyone, everyone)
    np.testing.assert_array_equal(matching, np.eye(2, dtype=bool))


def test_what_is_masked_counts_for_nothing():
    """Rows 0 and 1, columns 0 and 2 are there: matched 0.6 and 0.5, not matched 0.2 and 0.1."""
    similarity = np.float32([[0.6, 9, 0.2], [0.1, 9, 0.5], [9, np.nan, 9]])
    seen, asked = np.array([True, True, False]), np.array([True, False, True])
    matching = match_characters(similarity, seen, asked)
    assert float(matched_similarity(similarity, matching)) == pytest.approx(0.55)
    assert float(non_matched_similarity(similarity, matching, seen, asked)) == pytest.approx(0.15)
    slope = jax.grad(lambda s: matched_similarity(s, match_characters(s, seen, asked)))(similarity)
    np.testing.assert_allclose(slope, [[0.5, 0, 0], [0, 0, 0.5], [0, 0, 0]])


def test_nobody_and_one_alone():
    similarity, one, nobody = np.float32([[0.7]]), np.ones(1, bool), np.zeros(1, bool)
    assert float(matched_similarity(similarity, match_characters(similarity, nobody, one))) == 0
    alone = match_characters(similarity, one, one)
    assert float(matched_similarity(similarity, alone)) == pytest.approx(0.7)
    assert float(non_matched_similarity(similarity, alone, one, one)) == 0


def test_too_many_characters():
    with pytest.raises(InputError, match="5 seen and 2 asked characters: up to 4 are matched"):
        match_characters(np.zeros((5, 2)), np.ones(5, bool), np.ones(2, bool))


def test_copy_paste_golden():
    """In a plane, truth at 0°, reference at 60°: at 60° a copy, at 0° none, at 45° (45 - 15) / 60, and so on."""
    angles = np.deg2rad([60, 0, 45, 30, -20, 90])
    generated = jnp.float32(np.stack([np.cos(angles), np.sin(angles)], 1))
    truth, reference = jnp.float32([1, 0]), jnp.float32([0.5, 0.75**0.5])
    np.testing.assert_allclose(copy_paste(generated, truth, reference), [1, -1, 0.5, 0, -1, 1], atol=1e-6)


def test_copy_paste_of_nearly_equal_embeddings():
    """A thousandth of a radian apart, where float32's arccosine would be off by a tenth."""
    angles = np.array([0, 2.5e-4, 1e-3])
    truth, generated, reference = jnp.float32(np.stack([np.cos(angles), np.sin(angles)], 1))
    assert float(copy_paste(generated, truth, reference)) == pytest.approx((0.25 - 0.75) / 1, abs=1e-4)
    assert np.isnan(copy_paste(generated, truth, truth))
