"""Writing with a `Vlm`: token after token, all branches of all rows at once, in one compiled program."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from narrative_jax.models.vlm import Cache, Vlm


class Written(NamedTuple):
    """Tokens i32[b, branches, length], and how many of them are no padding, i32[b, branches]; an end token counts."""

    tokens: jax.Array
    lengths: jax.Array


class _State(NamedTuple):
    step: jax.Array
    tokens: jax.Array
    done: jax.Array
    cache: Cache


def write(
    model: Vlm,
    last: jax.Array,
    cache: Cache,
    *,
    length: int,
    ends: Sequence[int],
    pad: int,
    keys: jax.Array | None = None,
    temperature: jax.Array | float = 1.0,
) -> Written:
    """Up to `length` tokens after what was read, to the first of `ends`, then `pad`; for use inside jit.

    `last` f32[b, branches, width] are the hidden states of the last tokens read. Tokens are the likeliest ones or, with
    a random key for each branch, `keys` [b, branches], drawn at a temperature > 0, the same whatever is beside them.
    """
    rows, branches, read = cache.seen.shape

    def chosen(hidden, step):
        logits = model.logits(hidden)
        if keys is None:
            return logits.argmax(-1)
        return jax.vmap(jax.vmap(draw, (0, 0, None)), (0, 0, None))(keys, logits, step)

    def draw(key, logits, step):
        return jax.random.categorical(jax.random.fold_in(key, step), logits / temperature)

    def put(state, tokens):
        tokens = jnp.where(state.done, pad, tokens).astype(jnp.int32)
        done = state.done | jnp.isin(tokens, jnp.array(ends))
        return state.tokens.at[..., state.step].set(tokens), done

    def go_on(state):
        place = read + branches * (state.step - 1)
        hidden, cache = model.write_on(state.tokens[..., state.step - 1], state.cache, place)
        tokens, done = put(state, chosen(hidden, state.step))
        return _State(state.step + 1, tokens, done, cache)

    cache = model.room_in(cache, length - 1)
    nothing = _State(0, jnp.full((rows, branches, length), pad, jnp.int32), jnp.zeros((rows, branches), bool), cache)
    start = _State(jnp.int32(1), *put(nothing, chosen(last, 0)), cache)
    end = jax.lax.while_loop(lambda state: (state.step < length) & ~state.done.all(), go_on, start)
    ended = jnp.isin(end.tokens, jnp.array(ends))
    return Written(end.tokens, jnp.where(ended.any(-1), ended.argmax(-1) + 1, length))
