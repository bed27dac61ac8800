"""A network that reads a prompt, its subjects and a picture together and says how much people would like it.

ImageReward's plan (Xu et al. 2023): pretrained towers, a transformer in which what they see meets, and one number. CLIP
reads prompt and picture; another tower sees the picture's characters beside the subject images.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import Names, Published
from narrative_jax.models.clip import (
    CLIP_SIZES,
    EPSILON,
    ClipBlock,
    ClipTextConfig,
    ClipTextEncoder,
    ClipVisionConfig,
    ClipVisionEncoder,
    normal,
)
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Config, Dinov2Encoder
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet, IResNetConfig
from narrative_jax.models.layers import LayerNorm, Linear, unit
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.stacks import Stack
from narrative_jax.statistics import match_characters, matched_similarity

TOWERS = ("text", "vision", "subject")  # what starts from published weights
SUBJECT_NAMES = {Dinov2Config: DINOV2_NAMES, IResNetConfig: IRESNET_NAMES}
_SUBJECT_TOWERS = {Dinov2Config: Dinov2Encoder, IResNetConfig: IResNet}
_COSINES = 100.0  # so that Adam, whose steps are all alike, moves two numbers as fast as they need


@dataclass(frozen=True)
class ScalarRewardConfig:
    """Sizes of the towers and of the transformer on them; `side` is that of the squares the subject tower sees."""

    text: ClipTextConfig
    vision: ClipVisionConfig
    subject: Dinov2Config | IResNetConfig
    side: int
    width: int
    heads: int
    blocks: int
    max_subjects: int = 2
    views: int = 2


SCALAR_SIZES = {
    "ViT-L/14": ScalarRewardConfig(
        *CLIP_SIZES["ViT-L/14"], DINOV2_SIZES["ViT-B/14"], side=224, width=768, heads=12, blocks=4
    ),
    STORYBOOK: ScalarRewardConfig(
        *CLIP_SIZES[STORYBOOK], IRESNET_SIZES[STORYBOOK], side=40, width=64, heads=4, blocks=1
    ),
}


class ScalarReward(nnx.Module):
    """A straight line through the towers' cosines, and what a transformer on all that they see adds to it."""

    def __init__(self, config: ScalarRewardConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.text = ClipTextEncoder(config.text, rngs=rngs)
        self.vision = ClipVisionEncoder(config.vision, rngs=rngs)
        self.subject = _SUBJECT_TOWERS[type(config.subject)](config.subject, rngs=rngs)
        subject_width = getattr(config.subject, "embedding", None) or config.subject.width
        inputs = {"text": config.text.width, "vision": config.vision.width, "subject": subject_width}
        self.inputs = nnx.Dict({name: Linear(size, width, rngs=rngs) for name, size in inputs.items()})
        # What a token is of: the one that gathers, prompt, picture, each view, each subject.
        kinds = 3 + config.views + config.max_subjects
        self.kind_embedding = nnx.Param(normal(0.02)(rngs.params(), (kinds, width)), axes=(None, "embed"))
        sizes = width, config.heads, 4 * width, "gelu", config.blocks
        self.blocks = Stack(lambda rngs: ClipBlock(*sizes, rngs=rngs), config.blocks, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=EPSILON)
        self.out = Linear(width, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.line = Linear(2, 1, bias=False, kernel_init=nnx.initializers.constant(0.01), rngs=rngs)

    def __call__(self, tokens, seen, views, there, subjects, mask) -> jax.Array:
        """f32[b] of prompts i32[b, t], pictures f32[b, h, w, 3], views of their characters f32[b, v, h, w, 3], of which
        `there` bool[b, v] count, and subject images f32[b, s, h, w, 3] with `mask` bool[b, s] (False: padding).

        Pictures are normalised as each tower is used to.
        """
        text, picture = self.text(tokens), self.vision(seen)
        shown, asked = self._characters(views), self._characters(subjects)
        similarity = (shown[:, :, None] * asked[:, None]).sum(-1)
        matching = match_characters(similarity, there, mask)
        cosines = [(unit(text.projected) * unit(picture.projected)).sum(-1), matched_similarity(similarity, matching)]
        straight = self.line(_COSINES * jnp.stack(cosines, 1))[:, 0]

        ended = jnp.cumsum(tokens == self.config.text.end_token, 1)
        read = ended - (tokens == self.config.text.end_token) == 0  # up to the first end token
        first, of_prompt, of_picture, *of_characters = self.kind_embedding[...]
        of_views = jnp.stack(of_characters[: views.shape[1]])
        of_subjects = jnp.stack(of_characters[self.config.views :][: subjects.shape[1]])
        x = jnp.concatenate(
            [
                jnp.broadcast_to(first, (len(tokens), 1, self.config.width)),
                self.inputs["text"](text.tokens) + of_prompt,
                self.inputs["vision"](picture.tokens) + of_picture,
                self.inputs["subject"](shown) + of_views,
                self.inputs["subject"](asked) + of_subjects,
            ],
            1,
        )
        always = jnp.ones((len(tokens), 1), bool)
        counts = [always, read, jnp.repeat(always, picture.tokens.shape[1], 1), there, mask]
        counts = jnp.concatenate(counts, 1)[:, None, None]
        x, _ = self.blocks.run(lambda block, x, _: (block(x, counts), None), x)
        return straight + self.out(self.norm(x[:, 0]))[:, 0]

    def _characters(self, pictures):
        """Unit embeddings f32[b, n, d] of pictures f32[b, n, h, w, 3]."""
        pooled = self.subject(pictures.reshape(-1, *pictures.shape[2:])).pooled
        return unit(pooled).reshape(*pictures.shape[:2], -1)


def scalar_names(params: Params) -> Names:
    """Nobody else publishes this network: its arrays are kept under their own names and in their own layouts."""
    patterns = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in params)
    return {pattern: Published(pattern) for pattern in patterns}
