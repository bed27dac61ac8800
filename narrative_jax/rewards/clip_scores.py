"""How well a picture shows its prompt, by the angle between their CLIP embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import check_name
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.clip import (
    CLIP_SIZES,
    Clip,
    ClipTextConfig,
    ClipTextEncoder,
    ClipVisionConfig,
    ClipVisionEncoder,
)
from narrative_jax.models.layers import unit
from narrative_jax.models.network import Network, abstract, below
from narrative_jax.models.open_clip import load_clip_weights
from narrative_jax.models.preprocessing import longest_side_pad, normalise, shortest_side_crop
from narrative_jax.models.tokenizer import TOKENIZER, PromptReader, Tokenizer
from narrative_jax.rewards.base import size_name

CLIP_SCORE_SCALE = 2.5  # Hessel et al. 2021, eq. 1
_AT_ONCE = 64  # prompts encoded together, always as many, so that the text tower compiles once
_KEPT = 100_000  # embeddings of prompts kept in memory


@dataclass(frozen=True)
class ClipPair:
    """CLIP's two towers with a tokeniser; `read` gives the weights of a `Clip` of given shapes, once they are needed.

    `name` says which CLIP: scores that may come from several bear it.
    """

    name: str
    tokenizer: Tokenizer
    text: ClipTextConfig
    vision: ClipVisionConfig
    read: Callable[[Mapping[str, jax.ShapeDtypeStruct]], Params]
    _known: dict = field(default_factory=dict, compare=False)

    @cached_property
    def params(self) -> Params:
        """What looks at pictures: the weights of the image tower under "vision.", and "logit_scale"."""
        return {name: value for name, value in self._weights.items() if not name.startswith("text.")}

    @property
    def least_size(self) -> tuple[int, int]:
        """Height and width of a patch of the image tower."""
        return self.vision.patch_size, self.vision.patch_size

    @property
    def vision_axes(self) -> dict[str, tuple]:
        """The axes of the image tower's weights, for sharding."""
        return self._towers["vision"].axes

    def embed_images(self, params: Params, images: jax.Array) -> jax.Array:
        """Unit embeddings f32[b, projection] of pictures in [-1, 1] of the tower's size; pure."""
        tower = self._towers["vision"].bind(below("vision", params))
        return unit(tower(normalise(images, self.vision.normalisation)).projected)

    def embed_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit embeddings f32[b, projection], each prompt worked out once; says once what is empty or cut off."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._known))
        fresh = {}
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            tokens = np.resize(self._reader.tokens(part), (_AT_ONCE, self.text.max_length))
            fresh |= zip(part, np.asarray(self._embed_tokens(self._text_params, tokens)), strict=False)
        found = np.stack([fresh[prompt] if prompt in fresh else self._known[prompt] for prompt in prompts])
        if len(self._known) + len(fresh) > _KEPT:
            self._known.clear()
        self._known.update(fresh)
        return found

    @cached_property
    def _reader(self):
        return PromptReader(f"CLIP {self.name}", self.tokenizer, self.text.max_length)

    @cached_property
    def _weights(self):
        return self.read(abstract(lambda: Clip(self.text, self.vision, rngs=nnx.Rngs(0)))[1])

    @cached_property
    def _text_params(self):
        return below("text", self._weights)

    @cached_property
    def _towers(self) -> dict[str, Network]:
        text, _ = abstract(lambda: ClipTextEncoder(self.text, rngs=nnx.Rngs(0)))
        vision, _ = abstract(lambda: ClipVisionEncoder(self.vision, rngs=nnx.Rngs(0)))
        return {"text": text, "vision": vision}

    @cached_property
    def _embed_tokens(self):
        return jax.jit(lambda params, tokens: unit(self._towers["text"].bind(params)(tokens).projected))


def load_clip(weights: str | Path, size: str) -> ClipPair:
    """A published CLIP: a file of weights in the names of transformers or of OpenCLIP, tokenizer.json beside it.

    Raises InputError for an unknown size and an unreadable tokeniser, and on first use for unfit weights.
    """
    check_name("size of CLIP", size, CLIP_SIZES)
    text, vision = CLIP_SIZES[size]
    tokenizer = Tokenizer.load(Path(weights).with_name(TOKENIZER))
    text = replace(text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    return ClipPair(size_name(size), tokenizer, text, vision, lambda like: load_clip_weights(weights, like))


@dataclass(frozen=True)
class ClipCosine:
    """The cosine of picture and prompt as it is, about 0.3 where they agree (Radford et al. 2021)."""

    kind: ClassVar[str] = "clip_cosine"
    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False

    clip: ClipPair

    @property
    def name(self) -> str:
        """Which score, of which CLIP."""
        return f"{self.kind}_{self.clip.name}"

    @property
    def aspects(self) -> tuple[str, ...]:
        """One, the name."""
        return (self.name,)

    @property
    def params(self) -> Params:
        """The image tower's weights."""
        return self.clip.params

    @property
    def least_size(self) -> tuple[int, int]:
        """A patch of the image tower."""
        return self.clip.least_size

    def encode(self, scenes: Sequence[Scene]) -> np.ndarray:
        """Unit embeddings of the prompts, f32[b, projection]."""
        return self.clip.embed_prompts([scene.prompt for scene in scenes])

    def score(self, params: Params, images: jax.Array, context: jax.Array) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        cosine = (self.clip.embed_images(params, self._fitted(images)) * context).sum(-1)
        return self._scaled(params, cosine)[:, None]

    def _fitted(self, images):
        """The picture as the published code hands it to the image tower."""
        size = self.clip.vision.image_size
        return shortest_side_crop(images, size, size)

    def _scaled(self, params, cosine):
        return cosine


@dataclass(frozen=True)
class ClipScore(ClipCosine):
    """CLIPScore, 2.5 · max(cosine, 0) (Hessel et al. 2021), of the prompt alone: the paper's "A photo depicts" is not
    put before it.
    """

    kind: ClassVar[str] = "clip_score"

    def _scaled(self, params, cosine):
        return CLIP_SCORE_SCALE * jnp.maximum(cosine, 0)


@dataclass(frozen=True)
class HpsV2(ClipCosine):
    """Human Preference Score v2 and v2.1 (Wu et al. 2023): the cosine of a CLIP ViT-H/14 trained on choices.

    As its code gives it; its tables show 100 times as much.
    """

    name: ClassVar[str] = "hps_v2"

    def _fitted(self, images):
        return longest_side_pad(images, self.clip.vision.image_size)


@dataclass(frozen=True)
class PickScore(ClipCosine):
    """PickScore (Kirstain et al. 2023): the logit, scale · cosine, of a CLIP ViT-H/14 trained on choices."""

    name: ClassVar[str] = "pick_score"

    def _scaled(self, params, cosine):
        return jnp.exp(params["logit_scale"]) * cosine
