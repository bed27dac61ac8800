"""A generator's reading half: prompts to arrays, on the host, each prompt once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax
import numpy as np

from narrative_jax.core.types import Params
from narrative_jax.models.network import Network
from narrative_jax.models.tokenizer import Tokenizer

_BATCH = 64  # prompts encoded at once, always as many, so that the encoder compiles once
_KEPT = 10_000  # encodings kept in memory


@dataclass(frozen=True)
class TextSide:
    """A frozen CLIP text encoder with its tokeniser; prompts are read up to `length` tokens."""

    tokenizer: Tokenizer
    network: Network
    params: Params
    length: int
    _cache: dict = field(default_factory=dict, compare=False)

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states f32[b, length, width] and pooled states f32[b, width] of the prompts."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._cache))
        fresh = {}
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            tokens = self.tokenizer.encode(part + [""] * (_BATCH - len(part)), self.length)
            text, pooled = self._run(self.params, tokens)
            fresh |= dict(zip(part, zip(np.asarray(text), np.asarray(pooled), strict=True), strict=False))
        found = [fresh.get(prompt) or self._cache[prompt] for prompt in prompts]
        if len(self._cache) + len(fresh) > _KEPT:
            self._cache.clear()
        self._cache.update(fresh)
        text, pooled = zip(*found, strict=True)
        return np.stack(text), np.stack(pooled)

    @cached_property
    def empty(self) -> tuple[np.ndarray, np.ndarray]:
        """Encoding of the empty prompt, f32[length, width] and f32[width]."""
        with jax.ensure_compile_time_eval():  # a loss asks for it while it is traced
            text, pooled = self.encode([""])
        return text[0], pooled[0]

    @cached_property
    def _run(self):
        def run(params, tokens):
            encoding = self.network.bind(params)(tokens)
            return encoding.tokens, encoding.pooled

        return jax.jit(run)
