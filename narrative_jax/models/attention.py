"""Softmax attention by several implementations, each for its hardware, with equal results."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import BATCH_AXES, current_mesh, platform

AUTO, XLA, CUDNN, SPLASH = ATTENTIONS = ("auto", "xla", "cudnn", "splash")
ATTENDED = "attended"  # what attention gives, as policies of what is kept for the gradient know it
_RUNS_ON = {CUDNN: "gpu", SPLASH: "tpu"}
_BLOCKS = (512, 384, 256, 128)  # of tokens, that splash takes at once


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, attention: str = XLA) -> jax.Array:
    """Softmax attention of q f32[b, n, heads, d] over k and v f32[b, m, heads / g, d] -> f32[b, n, heads, d].

    Each g heads of queries, side by side, share keys and values (grouped queries, Ainslie et al. 2023). `mask` bool,
    broadcast to [b, heads, n, m], says which keys are seen; a query that sees none takes all alike.
    `attention` is an implementation, or "auto": on a TPU "splash", on a GPU "cudnn" for what they can do, else "xla".
    Raises InputError for one that cannot run on the platform, or for these sizes.
    """
    if attention == AUTO:
        attention = next((name for name in _RUNS_ON if not _obstacle(name, q, k, mask)), XLA)
    elif attention in _RUNS_ON and (obstacle := _obstacle(attention, q, k, mask)):
        raise InputError(f"attention {attention!r}", obstacle, f"set {AUTO!r}")
    found = {XLA: _xla, CUDNN: _cudnn, SPLASH: _splash}[attention](q, k, v, mask)
    return found if attention == SPLASH else checkpoint_name(found, ATTENDED)


def _obstacle(attention, q, k, mask):
    """Why this implementation cannot do it; "" where it can."""
    if platform() != _RUNS_ON[attention]:
        return f"it runs on a {_RUNS_ON[attention]}, and this is a {platform()}"
    if attention == CUDNN and q.dtype != jnp.bfloat16:
        return f"it computes in bfloat16, and this is {q.dtype}"
    if attention == CUDNN:
        even = mask is None or not (q.shape[1] % 2 or k.shape[1] % 2)
        return "" if even else f"with a mask it takes even numbers of tokens, and here are {q.shape[1]}, {k.shape[1]}"
    if q.shape[2] != k.shape[2]:
        return f"it takes as many heads of keys as of queries, and here are {k.shape[2]} and {q.shape[2]}"
    if current_mesh() is None:
        return "it is spread over a mesh, and this is traced without one"
    parts = current_mesh().shape["context"]  # of the queries; all see all keys
    tokens = [f"{n}" for n, multiple in ((q.shape[1], parts * _BLOCKS[-1]), (k.shape[1], _BLOCKS[-1])) if n % multiple]
    if tokens:
        where = f" in each of {parts} parts" if parts > 1 else ""
        return f"it takes multiples of {_BLOCKS[-1]} tokens{where}, and here are {' and '.join(tokens)}"
    by_key = mask is None or mask.shape[1:3] == (1, 1)
    return "" if by_key else "it hides keys from all queries or from none, and this mask does not"


def _xla(q, k, v, mask):
    # Heads first and the division last, on n · d instead of n · m numbers: XLA's CPU takes 0.6 of the time that it
    # takes for jax.nn.dot_product_attention, which is what this computes.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    rows, heads, n, size = q.shape
    # Queries of heads that share keys are more queries of one head.
    q = q.reshape(rows, k.shape[1], -1, size)
    logits = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * size**-0.5
    if mask is not None:
        mask = jnp.broadcast_to(mask, (rows, heads, n, k.shape[2])).reshape(logits.shape)
        logits = jnp.where(mask, logits, 0.7 * jnp.finfo(logits.dtype).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    values = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (values / total).astype(v.dtype).reshape(rows, heads, n, size).swapaxes(1, 2)


def _cudnn(q, k, v, mask):
    if mask is not None:  # cuDNN's is as long as queries and keys
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], q.shape[1], k.shape[1]))
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def _splash(q, k, v, mask, interpret=False):
    # Imported here: Pallas takes a second, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    mesh, (rows, n, heads, size), m = current_mesh(), q.shape, k.shape[1]
    parts = mesh.shape["context"]
    block_q, block_kv = (next(block for block in _BLOCKS if tokens % block == 0) for tokens in (n // parts, m))
    blocks = kernels.BlockSizes(
        block_q=block_q, block_kv=block_kv, block_kv_compute=block_kv,
        block_q_dkv=block_q, block_kv_dkv=block_kv, block_kv_dkv_compute=block_kv,
        block_q_dq=block_q, block_kv_dq=block_kv,
    )  # fmt: skip
    kernel = kernels.make_splash_mha(
        # Of one part of the queries: nothing is hidden, so that each part is like the others.
        masks.MultiHeadMask([masks.FullMask((n // parts, m))] * heads),
        block_sizes=blocks,
        head_shards=mesh.shape["tensor"],
        q_seq_shards=1,
        # Named inside, with the sums that its gradient needs too: what is named outside would not spare the kernel.
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    # Hidden keys belong to another segment than the queries.
    of_queries, of_keys = jnp.ones((rows, n), jnp.int32), jnp.ones((rows, m), jnp.int32)
    of_keys = of_keys if mask is None else jnp.broadcast_to(mask[:, 0, 0], (rows, m)).astype(jnp.int32)

    def local(kernel, q, k, v, of_queries, of_keys):
        q, k, v = (x.swapaxes(1, 2) for x in (q * size**-0.5, k, v))
        return jax.vmap(kernel)(q, k, v, kernels.SegmentIds(of_queries, of_keys)).swapaxes(1, 2)

    tokens, keys = PartitionSpec(BATCH_AXES, "context", "tensor"), PartitionSpec(BATCH_AXES, None, "tensor")
    of_kernel = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec("tensor", None)))
    return jax.shard_map(
        local,
        in_specs=(of_kernel, tokens, keys, keys, PartitionSpec(BATCH_AXES, "context"), PartitionSpec(BATCH_AXES)),
        out_specs=tokens,
        check_vma=False,
    )(kernel, q, k, v, of_queries, of_keys)
