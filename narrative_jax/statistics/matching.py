"""Who is who in pictures of several characters: matching, blending and pasted copies, from embeddings of them."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError

MAX_CHARACTERS = 4


def match_characters(similarity, seen, asked) -> jax.Array:
    """Which seen character is which asked one, bool[..., n, m]: as many as can be, with the largest sum of similarity.

    Hungarian matching by enumeration. `similarity` [..., n, m]; the masks `seen` bool[..., n] and `asked` bool[..., m]
    say which are there. Raises InputError for more than 4 characters.
    """
    n, m = similarity.shape[-2:]
    size = max(n, m)
    if size > MAX_CHARACTERS:
        raise InputError(f"{n} seen and {m} asked characters", f"up to {MAX_CHARACTERS} are matched", "pass fewer")
    orders = np.array(list(permutations(range(size), n)))  # the column of each row, none where it is ≥ m
    none = [(0, 0)] * (similarity.ndim - 1) + [(0, size - m)]
    there = _pairs(seen, asked)
    gains = jnp.pad(jnp.where(there, similarity, 0), none)[..., np.arange(n), orders]
    counts = jnp.pad(there, none)[..., np.arange(n), orders].sum(-1)
    totals = jnp.where(counts == counts.max(-1, keepdims=True), gains.sum(-1), -jnp.inf)
    columns = jnp.asarray(orders)[totals.argmax(-1)]
    return there & (columns[..., None] == jnp.arange(m))


def matched_similarity(similarity, matching) -> jax.Array:
    """Mean similarity [...] of the pairs of a matching bool[..., n, m]; 0 where there is none."""
    return _mean(similarity, matching)


def non_matched_similarity(similarity, matching, seen, asked) -> jax.Array:
    """Mean similarity [...] of each seen character to the asked ones that it is not; 0 where there are none.

    How much identities blend into one another (MultiID-Bench, Xu et al. 2025).
    """
    return _mean(similarity, _pairs(seen, asked) & ~matching)


def copy_paste(generated, truth, reference) -> jax.Array:
    """(θ(generated, truth) - θ(generated, reference)) / θ(truth, reference), [...], of unit embeddings [..., d].

    From -1, the character as it truly looks in this scene, to 1, a copy of the subject image (MultiID-Bench, Xu et al.
    2025); NaN where truth and reference are one. θ are angles.
    """
    apart = _angle(truth, reference)
    return jnp.where(apart > 0, (_angle(generated, truth) - _angle(generated, reference)) / apart, jnp.nan)


def _pairs(seen, asked):
    return jnp.asarray(seen)[..., :, None] & jnp.asarray(asked)[..., None, :]


def _mean(similarity, pairs):
    total = jnp.where(pairs, similarity, 0).sum((-2, -1))
    return total / jnp.maximum(pairs.sum((-2, -1)), 1)


def _angle(a, b):
    """Between unit vectors; exact where they are nearly parallel, unlike the arccosine in float32."""
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))
