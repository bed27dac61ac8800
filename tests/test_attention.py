"""Attention equals JAX's own, slopes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import make_mesh, traced_on
from narrative_jax.models import attention
from narrative_jax.models.attention import attend


def draw(dtype, batch=2, queries=5, keys=7, heads=3, size=4, shared=1):
    rng = np.random.default_rng(0)
    shapes = [(batch, queries, heads * shared, size)] + 2 * [(batch, keys, heads, size)]
    return [jnp.asarray(2 * rng.normal(size=shape), dtype) for shape in shapes]


MASKS = {
    "none": None,
    "of keys": np.arange(7) < np.array([4, 6])[:, None, None, None],
    "of pairs": np.tri(5, 7, dtype=bool),
    "one query sees none": np.arange(5)[:, None] * np.ones(7) > 0,
}


@pytest.mark.parametrize("shared", [1, 2])  # heads of queries that share keys
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_attention(mask, dtype, tolerance, shared):
    q, k, v = draw(dtype, shared=shared)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def theirs(q, k, v, mask):
        mask = None if mask is None else jnp.broadcast_to(mask, (2, 3 * shared, 5, 7))
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")

    def both(attention):
        found = attention(q, k, v, mask)
        assert found.shape == q.shape and found.dtype == q.dtype
        return found, *jax.grad(lambda *qkv: (weights * attention(*qkv, mask)).sum(), (0, 1, 2))(q, k, v)

    for ours, expected in zip(both(attend), both(theirs), strict=True):
        ours, expected = np.float32(ours), np.float32(expected)
        assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max()


def test_large_logits():
    q, k, v = draw("float32")
    found = attend(1e4 * q, k, v)  # exp of such numbers is beyond float32
    nearest = jnp.einsum("bnhd,bmhd->bnhm", q, k).argmax(-1)
    expected = jnp.take_along_axis(v.swapaxes(1, 2)[:, None], nearest[..., None, None], axis=3)[..., 0, :]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("hidden", [False, True])
def test_splash_is_what_xla_computes(hidden):
    """By its interpreter: the kernel itself runs on a TPU."""
    q, k, v = draw("float32", queries=256, keys=384, size=8)
    mask = np.arange(384) < np.array([200, 384])[:, None, None, None] if hidden else None
    with traced_on(make_mesh({})):
        found = jax.jit(lambda q, k, v: attention._splash(q, k, v, mask, interpret=True))(q, k, v)
    np.testing.assert_allclose(found, attend(q, k, v, mask, "xla"), atol=1e-5)


@pytest.mark.parametrize(
    ("where", "name", "rule"),
    [
        ("cpu", "splash", "it runs on a tpu, and this is a cpu; set 'auto'"),
        ("cpu", "cudnn", "it runs on a gpu, and this is a cpu; set 'auto'"),
        ("tpu", "splash", "it takes multiples of 128 tokens, and here are 5 and 7; set 'auto'"),
    ],
)
def test_an_implementation_that_cannot_run_is_refused(where, name, rule, monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: where)
    with traced_on(make_mesh({})), pytest.raises(InputError, match=f"attention '{name}': {rule}"):
        attend(*draw("float32"), None, name)


def test_what_is_traced_without_a_mesh_needs_none(monkeypatch):
    """On a TPU too."""
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    q, k, v = draw("float32", queries=128, keys=128)
    np.testing.assert_array_equal(attend(q, k, v), attend(q, k, v, None, "xla"))


@pytest.mark.parametrize("kind", ["of keys", "of pairs"])
def test_cudnns_masks_are_as_long_as_queries_and_keys(kind, monkeypatch):
    """It takes no others, and of odd lengths none: the kernel itself runs on a GPU."""
    mask, seen = MASKS[kind], []
    usual = jax.nn.dot_product_attention

    def instead(q, k, v, *, mask, implementation):
        seen.append((mask.shape, implementation))
        return usual(q, k, v, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    q, k, v = draw("bfloat16")
    with pytest.raises(InputError, match="with a mask it takes even numbers of tokens, and here are 5, 7"):
        attend(q, k, v, mask, "cudnn")
    expected = attend(q, k, v, mask, "auto")
    q, k, v = (jnp.concatenate([x, x[:, :1]], 1) for x in (q, k, v))  # a query and a key more, which no query sees
    ends = [(0, 0)] * (mask.ndim - 2) + [(0, mask.shape[-2] > 1), (0, 1)]
    found = attend(q, k, v, np.pad(mask, ends), "auto")[:, :5]
    np.testing.assert_allclose(np.float32(found), np.float32(expected), atol=0.05)
    ((shape, implementation),) = seen
    assert implementation == "cudnn" and shape[-2:] == (6, 8)
