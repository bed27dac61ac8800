"""Sizes of NIReward: those of published Qwen2-VL, and one for Storybook."""

from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.vlm import VlmConfig
from narrative_jax.models.vlm_files import QWEN2_VL_SIZES
from narrative_jax.models.vlm_vision import VisionTowerConfig
from narrative_jax.rewards.nireward_prompts import Room

_TOWER = VisionTowerConfig(patch_size=4, merge=2, width=160, heads=5, blocks=4, mlp_width=480)
_STORYBOOK = VlmConfig(
    768, 192, heads=6, key_heads=2, blocks=4, mlp_width=512, tied=True, sections=(4, 6, 6), vision=_TOWER
)
# Three pictures take 768 tokens; with three questions and critiques a picture takes 2,048 and a little more.
_PUBLISHED = Room(side=448, tokens=1280, max_subjects=2, critique=230)
NIREWARD_SIZES: dict[str, tuple[VlmConfig, Room]] = {
    STORYBOOK: (_STORYBOOK, Room(side=40, tokens=128, max_subjects=2, critique=80, aloud=168)),
    "2B": (QWEN2_VL_SIZES["2B"], _PUBLISHED),
    "7B": (QWEN2_VL_SIZES["7B"], _PUBLISHED),
}
