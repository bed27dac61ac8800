"""Networks that see what a picture is of, and whom it shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.types import Params
from narrative_jax.models.layers import unit
from narrative_jax.models.network import Network
from narrative_jax.models.preprocessing import Normalisation, normalise


@dataclass(frozen=True)
class PictureEncoder:
    """A network that sees what a picture is of; scores that may come from several bear its `name`.

    What it calls `output` stands for the picture. It sees squares whose side is a multiple of `patch`, or is `side`
    only. `shapes` are those of its weights, which `read` gives once they are needed; without it there are none.
    """

    name: str
    network: Network
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    normalisation: Normalisation
    patch: int
    side: int | None = None
    read: Callable[[], Params] | None = None
    output: str = "pooled"

    @cached_property
    def params(self) -> Params:
        """The network's weights."""
        return self.read()

    def check_side(self, side: int) -> None:
        """Raise InputError for squares that the network does not see."""
        check_count("side", side, 1)
        if self.side is None and side % self.patch:
            near = max(side // self.patch, 1) * self.patch
            rule = f"{self.name} sees squares whose side is a multiple of its patch, {self.patch}"
            raise InputError(f"squares of {side}", rule, f"take {near} or {near + self.patch}")
        if self.side not in (None, side):
            raise InputError(f"squares of {side}", f"{self.name} sees those of {self.side} only", f"take {self.side}")

    def embed(self, params: Params, images: jax.Array) -> jax.Array:
        """Unit embeddings f32[..., d] of pictures f32[..., h, w, 3] in [-1, 1]; pure."""
        flat = images.reshape(-1, *images.shape[-3:])
        found = getattr(self.network.bind(params)(normalise(flat, self.normalisation)), self.output)
        return unit(found).reshape(*images.shape[:-3], -1)
