"""Rewards of one network, which carry adapters as generators do."""

from dataclasses import replace
from typing import Self

from narrative_jax.core.errors import InputError
from narrative_jax.core.types import Params
from narrative_jax.models.lora import with_adapter


class CarriesAdapters:
    """For a frozen dataclass with a `network`, and `read`, which gives its weights."""

    def with_adapter(self, params: Params, name: str, **adapter) -> tuple[Self, Params]:
        """This reward with a fresh adapter on top of its stack, and its weights; see `lora.append_adapter`.

        Raises InputError as that does, and for segments: this network's tokens are not told apart.
        """
        if adapter["segments"]:
            rule = "an adapter of this reward acts on all tokens of its layers"
            raise InputError(f"segments {tuple(adapter['segments'])}", rule, "set segments to ()")
        network, adapted = with_adapter(self.network, params, name, **adapter)
        return replace(self, network=network, read=lambda: adapted), adapted
