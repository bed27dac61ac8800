"""CLIP's weights and tokeniser on disk."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jax

from narrative_jax.core.errors import check_name
from narrative_jax.core.types import Params
from narrative_jax.models.clip import CLIP_SIZES, ClipTextConfig, ClipVisionConfig
from narrative_jax.models.open_clip import load_clip_weights
from narrative_jax.models.shipped import weights_file
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer
from narrative_jax.rewards.base import size_name

# gives weights of these names, shapes and types
Read = Callable[[Mapping[str, jax.ShapeDtypeStruct]], Params]


def read_clip(
    weights: str | Path | None, size: str
) -> tuple[str, Tokenizer | None, ClipTextConfig, ClipVisionConfig, Read | None]:
    """What a `ClipPair` is made of, from a file of weights in the names of transformers or of OpenCLIP, tokenizer.json
    beside it; "" stands for the one that ships, of size "storybook". The weights are not read yet. Of None there are
    neither these nor a tokeniser.

    Raises InputError for an unknown size, a missing file and an unreadable tokeniser.
    """
    check_name("size of CLIP", size, CLIP_SIZES)
    text, vision = CLIP_SIZES[size]
    if weights is None:
        return size_name(size), None, text, vision, None
    file = weights_file(weights, size, "clip")
    tokenizer = Tokenizer.load(file.with_name(TOKENIZER))
    text = replace(text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    return size_name(size), tokenizer, text, vision, lambda like: load_clip_weights(file, like)
