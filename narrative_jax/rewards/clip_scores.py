"""How well a picture shows its prompt, by the angle between their CLIP embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.memory import Memory
from narrative_jax.core.options import File
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.clip import ClipTextConfig, ClipTextEncoder, ClipVisionConfig, ClipVisionEncoder
from narrative_jax.models.layers import unit
from narrative_jax.models.network import abstract, below, under
from narrative_jax.models.preprocessing import longest_side_pad, normalise, shortest_side_crop
from narrative_jax.models.tokenizer import PromptReader, Tokenizer
from narrative_jax.rewards.base import SingleAspect
from narrative_jax.rewards.clip_files import Read, read_clip

CLIP_SCORE_SCALE = 2.5  # Hessel et al. 2021, eq. 1
_AT_ONCE = 64  # prompts encoded together, always as many, so that the text tower compiles once


@dataclass(frozen=True)
class ClipPair:
    """CLIP's two towers with a tokeniser; `read` gives the weights of a `Clip` of given shapes, once they are needed.

    `name` says which CLIP: scores that may come from several bear it. Without tokeniser and weights it can be planned.
    """

    name: str
    tokenizer: Tokenizer | None
    text: ClipTextConfig
    vision: ClipVisionConfig
    read: Read | None
    _memory: Memory = field(default_factory=Memory, init=False, compare=False, repr=False)

    @cached_property
    def params(self) -> Params:
        """What looks at pictures: the weights of the image tower under "vision.", and "logit_scale"."""
        return {name: value for name, value in self._weights.items() if not name.startswith("text.")}

    @cached_property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Those of `params`; nothing is read."""
        return {"logit_scale": jax.ShapeDtypeStruct((), jnp.float32), **under("vision", self._vision[1])}

    @cached_property
    def axes(self) -> dict[str, tuple]:
        """Those of `params`, for sharding."""
        return {"logit_scale": (), **under("vision", self._vision[0].axes)}

    @property
    def least_size(self) -> tuple[int, int]:
        """Height and width of a patch of the image tower."""
        return self.vision.patch_size, self.vision.patch_size

    def embed_images(self, params: Params, images: jax.Array) -> jax.Array:
        """Unit embeddings f32[b, projection] of pictures in [-1, 1] of the tower's size; pure."""
        tower = self._vision[0].bind(below("vision", params))
        return unit(tower(normalise(images, self.vision.normalisation)).projected)

    def embed_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit embeddings f32[b, projection], each prompt worked out once; says once what is empty or cut off."""
        return np.stack(self._memory.look_up(prompts, self._embed_new))

    def _embed_new(self, prompts):
        found = []
        for start in range(0, len(prompts), _AT_ONCE):
            part = prompts[start : start + _AT_ONCE]
            tokens = np.resize(self._reader.tokens(part), (_AT_ONCE, self.text.max_length))
            embedded = np.asarray(self._embed_tokens(self._text_params, tokens))[: len(part)]
            found.extend(row.copy() for row in embedded)  # else a row that is remembered keeps its batch in memory
        return found

    @cached_property
    def _reader(self):
        return PromptReader(f"CLIP {self.name}", self.tokenizer, self.text.max_length)

    @cached_property
    def _text(self):
        return abstract(lambda: ClipTextEncoder(self.text, rngs=nnx.Rngs(0)))

    @cached_property
    def _vision(self):
        return abstract(lambda: ClipVisionEncoder(self.vision, rngs=nnx.Rngs(0)))

    @cached_property
    def _weights(self):
        return self.read({**self.shapes, **under("text", self._text[1])})

    @cached_property
    def _text_params(self):
        return below("text", self._weights)

    @cached_property
    def _embed_tokens(self):
        return jax.jit(lambda params, tokens: unit(self._text[0].bind(params)(tokens).projected))


def load_clip(weights: str | None, size: str) -> ClipPair:
    """A published CLIP, of None without weights; see `read_clip`, whose errors it raises, and on first use InputError
    for unfit weights.
    """
    return ClipPair(*read_clip(weights, size))


@dataclass(frozen=True)
class ClipCosine(SingleAspect):
    """The cosine of picture and prompt as it is, about 0.3 where they agree (Radford et al. 2021)."""

    kind: ClassVar[str] = "clip_cosine"

    clip: ClipPair

    @property
    def name(self) -> str:
        """Which score, of which CLIP."""
        return f"{self.kind}_{self.clip.name}"

    @property
    def params(self) -> Params:
        """Without the text tower's, which `encode` uses."""
        return self.clip.params

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `PureReward`."""
        return self.clip.shapes

    @property
    def axes(self) -> dict[str, tuple]:
        """See `PureReward`."""
        return self.clip.axes

    @property
    def least_size(self) -> tuple[int, int]:
        """A patch of the image tower."""
        return self.clip.least_size

    def encode(self, scenes: Sequence[Scene]) -> np.ndarray:
        """Unit embeddings of the prompts, f32[b, projection]."""
        return self.clip.embed_prompts([scene.prompt for scene in scenes])

    def blank(self, rows: int) -> np.ndarray:
        """See `PureReward`."""
        return np.zeros((rows, self.clip.vision.projection), np.float32)

    def judge(self, params: Params, fitted: jax.Array, context: jax.Array, critiques: Any = None) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        cosine = (self.clip.embed_images(params, fitted) * context).sum(-1)
        return self._scaled(params, cosine)[:, None]

    def fit(self, images: jax.Array, context: jax.Array) -> jax.Array:
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

    def fit(self, images: jax.Array, context: jax.Array) -> jax.Array:
        """As `ClipCosine`."""
        return longest_side_pad(images, self.clip.vision.image_size)


@dataclass(frozen=True)
class PickScore(ClipCosine):
    """PickScore (Kirstain et al. 2023): the logit, scale · cosine, of a CLIP ViT-H/14 trained on choices."""

    name: ClassVar[str] = "pick_score"

    def _scaled(self, params, cosine):
        return jnp.exp(params["logit_scale"]) * cosine


@dataclass(frozen=True)
class ClipCosineOptions:
    """The file and the size of the CLIP; see `load_clip`."""

    makes: ClassVar[type[ClipCosine]] = ClipCosine

    weights: File
    size: str = "ViT-L/14"

    def build(self) -> ClipCosine:
        """The score of this CLIP, whose weights are read when they are needed. Raises InputError as `load_clip`."""
        return self.makes(load_clip(self.weights, self.size))

    def abstract(self) -> ClipCosine:
        """See `PureReward`. Raises InputError for an unknown size."""
        return self.makes(load_clip(None, self.size))


@dataclass(frozen=True)
class ClipScoreOptions(ClipCosineOptions):
    """As `ClipCosineOptions`."""

    makes: ClassVar[type[ClipCosine]] = ClipScore


@dataclass(frozen=True)
class HpsV2Options(ClipCosineOptions):
    """As `ClipCosineOptions`; published is ViT-H/14."""

    makes: ClassVar[type[ClipCosine]] = HpsV2

    size: str = "ViT-H/14"


@dataclass(frozen=True)
class PickScoreOptions(HpsV2Options):
    """As `HpsV2Options`."""

    makes: ClassVar[type[ClipCosine]] = PickScore
