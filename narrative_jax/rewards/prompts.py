"""Prompts as the text tower of a reward reads them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from narrative_jax.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptReader:
    """Turns prompts into `length` tokens for the reward called `reader`, and says once what it cannot read."""

    reader: str
    tokenizer: Tokenizer
    length: int
    _told: set = field(default_factory=set, compare=False)

    def tokens(self, prompts: Sequence[str]) -> np.ndarray:
        """i32[b, length]; the first prompts without words and the first that lose their end are named on stderr."""
        empty = [prompt for prompt in prompts if not prompt.strip()]
        self._tell("no words, pictures are compared with nothing", empty)
        cut = self.tokenizer.truncated(prompts, self.length)
        self._tell(f"more than {self.length} tokens, the rest is not read", cut)
        return self.tokenizer.encode(prompts, self.length)

    def _tell(self, trouble, prompts):
        if prompts and trouble not in self._told:
            self._told.add(trouble)
            print(f"{self.reader}: prompts like {prompts[0][:60]!r} have {trouble}", file=sys.stderr)
