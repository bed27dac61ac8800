"""Array types that several floors share."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

Pictures = Sequence[np.ndarray]  # u8[h, w, 3] each, of any sizes
Params = dict[str, jax.Array]  # weights by dotted path, e.g. "single_blocks.*.out.kernel", see models.stacks


class Segment(NamedTuple):
    """A named run of tokens, `start` to `stop` on the token axis; static, so that layers can slice by it."""

    name: str
    start: int
    stop: int
