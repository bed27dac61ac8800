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
        self._tell("no words", lambda: [prompt for prompt in prompts if not prompt.strip()])
        cut = f"more than {self.length} tokens, the rest is not read"
        self._tell(cut, lambda: self.tokenizer.truncated(prompts, self.length))
        return self.tokenizer.encode(prompts, self.length)

    def _tell(self, trouble, find):
        if trouble not in self._told and (found := find()):
            self._told.add(trouble)
            print(f"{self.reader}: prompts like {found[0][:60]!r} have {trouble}", file=sys.stderr)
