"""Vision-language models small enough for tests, and prompts for them."""

import numpy as np

from narrative_jax.models.vlm import VlmConfig
from narrative_jax.models.vlm_inputs import Interleaved, collate, read_picture
from narrative_jax.models.vlm_vision import VisionTowerConfig

PICTURE, VOCABULARY = 50, 60
TIED = VlmConfig(VOCABULARY, 32, 4, 2, 2, 48, True, (1, 1, 2), VisionTowerConfig(4, 2, 32, 2, 2, 128), scanned=True)
UNTIED = VlmConfig(VOCABULARY, 48, 6, 1, 3, 40, False, (2, 1, 1), VisionTowerConfig(2, 3, 24, 3, 1, 96), scanned=True)
SHAPES = ((17, 9), (20, 33), (8, 8), (23, 16))  # of pictures
BUCKET = {"length": 40, "patches": 216}


def picture(config, shape, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    return read_picture(image, config.vision, least=3 * config.vision.side**2, most=8 * config.vision.side**2)


def prompt(config, shapes, words, seed=0):
    """Words, then pictures with words after each."""
    rng, said = np.random.default_rng(seed), []
    for _ in range(len(shapes) + 1):
        said += [*rng.integers(0, PICTURE, words), PICTURE]
    pictures = [picture(config, shape, seed + place) for place, shape in enumerate(shapes)]
    return Interleaved(np.array(said[:-1], np.int32), pictures)


def prompts(config):
    """With one picture, with three of odd sizes, without any; of different lengths."""
    return [prompt(config, SHAPES[:1], 4, 1), prompt(config, SHAPES[1:], 2, 2), prompt(config, (), 7, 3)]


def batch(config, asked=None):
    """The `prompts`, or those asked for, as the network reads them."""
    return collate(asked or prompts(config), picture_token=PICTURE, config=config.vision, **BUCKET)
