"""Array types that several floors share."""

from typing import Any, NamedTuple

import jax

Params = dict[str, jax.Array]  # weights by dotted path, e.g. "single_blocks.0.to_q.kernel"


class Segment(NamedTuple):
    """A named run of tokens, `start` to `stop` on the token axis; static, so that layers can slice by it."""

    name: str
    start: int
    stop: int


class Conditioning(NamedTuple):
    """What a generator is asked for, encoded.

    `text` f32[b, t, d], `pooled` f32[b, p], `subjects` f32[b, s, m, c] (latent tokens of each subject image),
    `subject_mask` bool[b, s] (False: padding), and `prepared`, what `prepare` fills in: a pytree with leading axis b.
    """

    text: jax.Array
    pooled: jax.Array
    subjects: jax.Array
    subject_mask: jax.Array
    prepared: Any = None
