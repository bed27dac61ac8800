"""A critique of each aspect of a picture, and what it amounts to (NIReward)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.critic import Critic, Texts
from narrative_jax.models.network import Network
from narrative_jax.models.preprocessing import CLIP, normalise
from narrative_jax.models.vlm import Cache, VlmInputs
from narrative_jax.models.vlm_inputs import as_patches, cells_of
from narrative_jax.rewards.adapted import CarriesAdapters
from narrative_jax.rewards.base import FitsAndJudges, size_name
from narrative_jax.rewards.nireward_prompts import Prompts, Shown
from narrative_jax.rewards.regions import fit


@dataclass(frozen=True)
class NIReward(CarriesAdapters, FitsAndJudges):
    """Writes a critique of each aspect, then gives it a number; only differences of these mean anything.

    Where its size has room for that, it first says aloud what picture and portraits show, in its own words, and
    criticises behind them. Scores are those of its own critiques unless others are given; one without a critique is
    read where nothing was said, as all are of one without room for critiques. Their gradient is that with all words
    held fixed. `read` gives the weights, once they are needed.
    """

    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False
    size: str
    prompts: Prompts
    network: Network
    read: Callable[[Mesh | None], Params]

    @property
    def aspects(self) -> tuple[str, ...]:
        """Those that it is asked about."""
        return tuple(self.prompts.instructions)

    @property
    def name(self) -> str:
        """With the size's."""
        return f"nireward_{size_name(self.size)}"

    @property
    def writes(self) -> bool:
        """Whether there is room for critiques."""
        return self.prompts.room.critique > 0

    @property
    def silent(self) -> "NIReward":
        """The same weights, which judge at once and write nothing."""
        return replace(self, prompts=self.prompts.silent)

    @property
    def max_subjects(self) -> int:
        """As many as its size shows."""
        return self.prompts.room.max_subjects

    @property
    def least_size(self) -> tuple[int, int]:
        """A token's."""
        return (self.prompts.tower.side,) * 2

    def encode(self, scenes: Sequence[Scene]) -> Shown:
        """See `Prompts.shown`."""
        return self.prompts.shown(scenes)

    def fit(self, images: jax.Array, context: Shown) -> jax.Array:
        """Squares f32[b, side, side, 3]."""
        return fit(images, self.prompts.room.side)

    def judge(self, params: Params, fitted: jax.Array, context: Shown, critiques: Texts | None = None) -> jax.Array:
        """f32[b, k]; see `PureReward`."""
        critic = self.network.bind(params)
        if not self.writes:
            return critic.score(critic.ask(self.show(critic, fitted, context), self.prompts.questions).last)
        if critiques is None:
            return self.criticise(params, fitted, context)[1]
        asked, at_once = self._asked(params, self.show(critic, fitted, context))
        return critic.judge(asked, critiques, at_once).after

    def criticise(
        self, params: Params, fitted: jax.Array, context: Shown, keys: jax.Array | None = None
    ) -> tuple[Texts, jax.Array]:
        """Critiques [b, k, m] and the scores f32[b, k] behind them; the likeliest words, or drawn with a key a picture.

        See `judge`.
        """
        if keys is not None:
            keys = jax.vmap(lambda key: jax.random.split(key, len(self.aspects)))(keys)
        critic = self.network.bind(params)
        asked, at_once = self._asked(params, self.show(critic, fitted, context))  # once, to write and to score
        critiques = self._written(params, asked, self.prompts.room.critique, keys)
        return critiques, critic.judge(asked, critiques, at_once).after

    def say(self, params: Params, fitted: jax.Array, context: Shown) -> Texts:
        """What it says aloud of pictures before it criticises them, [b, 1, m]; of a size with room for that."""
        return self._said(params, self.show(self.network.bind(params), fitted, context))[1]

    def _asked(self, params, shown):
        """The aspects' questions behind what is said aloud, and at once."""
        critic = self.network.bind(params)
        at_once = critic.ask(shown, self.prompts.questions)
        if not self.prompts.room.aloud:
            return at_once, at_once
        opening, said = self._said(params, shown)
        return critic.ask(critic.answer(opening, said).cache, self.prompts.next_questions), at_once

    def _said(self, params, shown):
        """What is said aloud, behind the question for it."""
        opening = self.network.bind(params).ask(shown, self.prompts.opening)
        return opening, self._written(params, opening, self.prompts.room.aloud)

    def _written(self, params, asked, length, keys=None):
        params, asked = jax.lax.stop_gradient((params, asked))
        critic, tokenizer = self.network.bind(params), self.prompts.tokenizer
        found = critic.write(asked, length=length, end=tokenizer.end, pad=tokenizer.pad, keys=keys)
        return Texts(found.tokens, jnp.arange(length) < found.lengths[..., None])

    def see(self, critic: Critic, images: jax.Array) -> jax.Array:
        """What stands for each picture f32[b, h, w, 3] among words, f32[b, tokens, width], from left to right and from
        top to bottom.
        """
        side, tower = self.prompts.room.side, self.prompts.tower
        patches = as_patches(normalise(fit(images, side), CLIP), tower)
        cells = cells_of(side // tower.patch_size, side // tower.patch_size, tower.merge)
        return critic.vlm.see(patches, jnp.broadcast_to(cells, (len(patches), *cells.shape)))

    def show(self, critic: Critic, fitted: jax.Array, context: Shown) -> Cache:
        """What the network has read of scenes and pictures before it is asked anything."""
        seen = as_patches(normalise(fitted, CLIP), self.prompts.tower)

        patches = jnp.asarray(context.inputs.patches)
        here = jnp.arange(patches.shape[1]) == context.place[:, None]
        patches = jnp.where(here[..., None, None], seen[:, None], patches)
        return critic.show(VlmInputs(*context.inputs)._replace(patches=patches))
