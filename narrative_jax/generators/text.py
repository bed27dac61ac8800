"""A generator's reading half: prompts to arrays, on the host, each prompt once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from narrative_jax.core.memory import Memory
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.clip import CLIP_SIZES, CLIP_TEXT_NAMES, ClipTextEncoder
from narrative_jax.models.network import Network, abstract
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer

WEIGHTS = "text_encoder.safetensors"  # of a text encoder, in its folder
_BATCH = 64  # prompts encoded at once, always as many, so that the encoder compiles once


@dataclass(frozen=True)
class TextSide:
    """A frozen CLIP text encoder with its tokeniser; prompts are read up to `length` tokens."""

    tokenizer: Tokenizer
    network: Network
    length: int
    _known: Memory = field(default_factory=Memory, compare=False)

    def encode(self, params: Params, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states f32[b, length, width] and pooled states f32[b, width] of the prompts."""
        found = self._known.look_up(prompts, lambda new: self._encoded(params, new), params)
        return tuple(map(np.stack, zip(*found, strict=True)))

    def not_read(self, prompts: Sequence[str]) -> dict[str, list[str]]:
        """Words without a meaning to the encoder, and prompts that lose their end."""
        cut = self.tokenizer.truncated(prompts, self.length)
        return {"unknown_words": self.tokenizer.unknown_words(prompts), "truncated_prompts": cut}

    def _encoded(self, params, prompts):
        """(hidden states, pooled state) of each prompt."""
        fresh = []
        for start in range(0, len(prompts), _BATCH):
            part = prompts[start : start + _BATCH]
            tokens = self.tokenizer.encode(part + [""] * (_BATCH - len(part)), self.length)
            text, pooled = map(np.asarray, self._run(params, tokens))
            # Copies: a row that is remembered would keep its whole batch in memory.
            fresh += [(text[row].copy(), pooled[row].copy()) for row in range(len(part))]
        return fresh

    @cached_property
    def _run(self):
        def run(params, tokens):
            encoding = self.network.bind(params)(tokens)
            return encoding.tokens, encoding.pooled

        return jax.jit(run)


def load_text(folder: Path, length: int) -> tuple[TextSide, Params]:
    """The text encoder of Storybook's size in `folder`, tokenizer.json and text_encoder.safetensors, and its weights.

    Raises InputError.
    """
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    config = replace(CLIP_SIZES[STORYBOOK][0], vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    network, like = abstract(lambda: ClipTextEncoder(config, rngs=nnx.Rngs(0)))
    return TextSide(tokenizer, network, length), load_weights(folder / WEIGHTS, like, CLIP_TEXT_NAMES)
