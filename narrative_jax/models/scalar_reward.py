"""A network that reads a prompt, its subjects and a picture together and says how much people would like it.

ImageReward's plan (Xu et al. 2023): pretrained towers, a transformer in which their tokens meet, and one number. The
picture is seen by CLIP's image tower, for the prompt, and by DINOv2, beside the subject images, for who is in it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import STORYBOOK, Names, Published
from narrative_jax.models.clip_blocks import EPSILON, ClipBlock, normal
from narrative_jax.models.dinov2 import DINOV2_SIZES, Dinov2Config, Dinov2Encoder
from narrative_jax.models.layers import LayerNorm, Linear
from narrative_jax.models.text_encoders import ClipTextConfig, ClipTextEncoder
from narrative_jax.models.vision_encoders import CLIP_SIZES, ClipVisionConfig, ClipVisionEncoder

TOWERS = ("text", "vision", "subject")  # what starts from published weights


@dataclass(frozen=True)
class ScalarRewardConfig:
    """Sizes of the towers and of the transformer on them."""

    text: ClipTextConfig
    vision: ClipVisionConfig
    subject: Dinov2Config
    width: int
    heads: int
    blocks: int
    max_subjects: int = 2


SCALAR_SIZES = {
    "ViT-L/14": ScalarRewardConfig(*CLIP_SIZES["ViT-L/14"], DINOV2_SIZES["ViT-B/14"], width=768, heads=12, blocks=4),
    STORYBOOK: ScalarRewardConfig(*CLIP_SIZES[STORYBOOK], DINOV2_SIZES[STORYBOOK], width=128, heads=4, blocks=2),
}


class ScalarReward(nnx.Module):
    """Tokens of prompt, picture and subjects, after one that gathers what they come to."""

    def __init__(self, config: ScalarRewardConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.text = ClipTextEncoder(config.text, rngs=rngs)
        self.vision = ClipVisionEncoder(config.vision, rngs=rngs)
        self.subject = Dinov2Encoder(config.subject, rngs=rngs)
        inputs = {"text": config.text.width, "vision": config.vision.width, "subject": config.subject.width}
        self.inputs = nnx.Dict({name: Linear(size, width, rngs=rngs) for name, size in inputs.items()})
        # What a token is of: the gathering one, prompt, picture twice, and each subject.
        kinds = 4 + config.max_subjects
        self.kind_embedding = nnx.Param(normal(0.02)(rngs.params(), (kinds, width)), axes=(None, "embed"))
        self.blocks = nnx.List(
            [ClipBlock(width, config.heads, 4 * width, "gelu", config.blocks, rngs=rngs) for _ in range(config.blocks)]
        )
        self.norm = LayerNorm(width, epsilon=EPSILON)
        self.out = Linear(width, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, tokens: jax.Array, seen: jax.Array, looked: jax.Array, subjects: jax.Array, mask: jax.Array):
        """f32[b] of prompts i32[b, t], pictures as CLIP `seen` f32[b, h, w, 3] and as DINOv2 `looked` f32[b, h, w, 3],
        normalised as each is used to, and subject images f32[b, s, h, w, 3] with `mask` bool[b, s] (False: padding).
        """
        batch, count = mask.shape
        parts = [
            self.inputs["text"](self.text(tokens).tokens),
            self.inputs["vision"](self.vision(seen).tokens),
            *self._compared(looked, subjects),
        ]
        read = jnp.cumsum(tokens == self.config.text.end_token, 1) - (tokens == self.config.text.end_token) == 0
        there = [read, *(jnp.ones(part.shape[:2], bool) for part in parts[1:3])]
        there += [jnp.repeat(mask[:, i : i + 1], parts[3].shape[1], 1) for i in range(count)]
        kinds = self.kind_embedding[...]
        first = jnp.broadcast_to(kinds[0], (batch, 1, kinds.shape[1]))
        x = jnp.concatenate([first, *(part + kind for part, kind in zip(parts, kinds[1:], strict=False))], 1)
        there = jnp.concatenate([jnp.ones((batch, 1), bool), *there], 1)[:, None, None]
        for block in self.blocks:
            x = block(x, there)
        return self.out(self.norm(x[:, 0]))[:, 0]

    def _compared(self, looked, subjects):
        """Tokens of the picture and of each subject's image, all through one tower."""
        count = subjects.shape[1]
        pictures = jnp.concatenate([looked, *jnp.moveaxis(subjects, 1, 0)])
        tokens = self.inputs["subject"](self.subject(pictures).tokens)
        return jnp.split(tokens, 1 + count)


def scalar_names(params: Params) -> Names:
    """Nobody else publishes this network: its arrays are kept under their own names and in their own layouts."""
    patterns = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in params)
    return {pattern: Published(pattern) for pattern in patterns}
