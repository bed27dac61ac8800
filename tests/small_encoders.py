"""Storybook's networks with few weights, for tests that train them: a block each, and widths alike."""

from contextlib import contextmanager

import pytest

from narrative_jax.generators import text as generator_text
from narrative_jax.models.clip import CLIP_SIZES, ClipTextConfig, ClipVisionConfig
from narrative_jax.models.dinov2 import DINOV2_SIZES, Dinov2Config
from narrative_jax.models.id_encoder import IRESNET_SIZES, IResNetConfig
from narrative_jax.models.reward_heads import AESTHETIC_HEADS
from narrative_jax.models.scalar_reward import SCALAR_SIZES, ScalarRewardConfig
from narrative_jax.models.shipped import STORYBOOK

TEXT = ClipTextConfig(max_length=24, width=16, heads=2, blocks=1, mlp_width=32, projection=16)
VISION = ClipVisionConfig(image_size=40, patch_size=8, width=16, heads=2, blocks=1, mlp_width=32, projection=16)
DINO = Dinov2Config(image_size=40, patch_size=8, width=16, heads=2, blocks=1, mlp_width=32)
IRESNET = IResNetConfig(image_size=40, widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), embedding=16)
SCALAR = ScalarRewardConfig(TEXT, VISION, IRESNET, side=40, width=16, heads=2, blocks=1)


@contextmanager
def small_storybook():
    """Within it, size "storybook" of every encoder and reward is the small one; of what ships, the generator fits."""
    small = [
        (CLIP_SIZES, (TEXT, VISION)),
        (DINOV2_SIZES, DINO),
        (IRESNET_SIZES, IRESNET),
        (SCALAR_SIZES, SCALAR),
        (AESTHETIC_HEADS, AESTHETIC_HEADS[STORYBOOK]._replace(widths=(TEXT.projection, 1))),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator_text, "CLIP_SIZES", dict(CLIP_SIZES))
        for table, size in small:
            patch.setitem(table, STORYBOOK, size)
        yield
