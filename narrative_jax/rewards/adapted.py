"""Rewards of one network, which carry adapters as generators do."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Self

from jax.sharding import Mesh

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import spread_weights
from narrative_jax.core.types import Params
from narrative_jax.models.lora import with_adapter


class CarriesAdapters:
    """For a frozen dataclass with a `network`, and `read(mesh)`, which gives its weights, over a mesh where one is
    given and that can be.
    """

    @cached_property
    def params(self) -> Params:
        """The network's weights."""
        return self.read(None)

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `PureReward`."""
        return self.network.axes

    def laid(self, mesh: Mesh | None = None) -> Params:
        """See `PureReward`."""
        return self.params if mesh is None else spread_weights(self.read(mesh), self.axes, mesh)

    def with_adapter(self, params: Params, name: str, **adapter) -> tuple[Self, Params]:
        """This reward with a fresh adapter on top of its stack, and its weights; see `lora.append_adapter`.

        Raises InputError as that does, and for segments: this network's tokens are not told apart.
        """
        if adapter["segments"]:
            rule = "an adapter of this reward acts on all tokens of its layers"
            raise InputError(f"segments {tuple(adapter['segments'])}", rule, "set segments to ()")
        network, adapted = with_adapter(self.network, params, name, **adapter)
        return replace(self, network=network, read=lambda mesh: adapted), adapted
