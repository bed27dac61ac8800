"""Prompts as token numbers, by `tokenizer.json` files: CLIP's own, or one trained on a small world's captions."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import write_bytes

TOKENIZER = "tokenizer.json"  # lies beside the weights of those who read by it
UNKNOWN, START, END = "<unk>", "<start>", "<end>"


class Tokenizer:
    """Encodes prompts to one length. `vocab_size` tokens; `start`, `end` and `pad` are those round a prompt."""

    def __init__(self, rules: tokenizers.Tokenizer):
        """Raises InputError for rules that do not put one token before and one after a prompt."""
        around = rules.encode("").ids
        if len(around) != 2:
            rule = "a start and an end token are needed"
            raise InputError(
                f"a tokeniser that gives {len(around)} tokens for no words", rule, "give one made for CLIP"
            )
        self.start, self.end = around
        self.pad = rules.padding["pad_id"] if rules.padding else self.end
        rules.no_padding()
        rules.no_truncation()
        self._rules = rules
        self.vocab_size = rules.get_vocab_size()

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a `tokenizer.json`. Raises InputError where it is missing, corrupt, or not made for CLIP."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except InputError:
            raise
        except Exception as error:  # the library raises nothing narrower
            rule = f"it is no readable tokenizer.json ({error})"
            raise InputError(f"{path}", rule, "copy or download it again, or give another") from None

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`. Raises InputError where it cannot be written."""
        write_bytes(path, self._rules.to_str(pretty=True).encode())

    def encode(self, prompts: Sequence[str], length: int) -> np.ndarray:
        """i32[b, length]: start, the prompt's tokens, end, padding; a prompt too long loses its last tokens."""
        if length < 2:
            check_count("length", length, minimum=2)
        ids = np.full((len(prompts), length), self.pad, np.int32)
        for row, encoding in zip(ids, self._encodings(prompts), strict=True):
            tokens = [self.start, *encoding.ids[: length - 2], self.end]
            row[: len(tokens)] = tokens
        return ids

    def truncated(self, prompts: Sequence[str], length: int) -> list[str]:
        """The prompts that lose tokens when encoded to `length`."""
        pairs = zip(prompts, self._encodings(prompts), strict=True)
        return [prompt for prompt, encoding in pairs if len(encoding.ids) > length - 2]

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words of the prompts that have no token, lower case, sorted; CLIP's own tokeniser spells every word."""
        unknown = self._rules.token_to_id(self._rules.model.unk_token or "")
        if unknown == self.end:  # CLIP's file names its end token here, and never uses it so
            return []
        return sorted(
            {
                prompt[start:stop].lower()
                for prompt, encoding in zip(prompts, self._encodings(prompts), strict=True)
                for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
                if token == unknown
            }
        )

    def _encodings(self, prompts):
        return self._rules.encode_batch(list(prompts), add_special_tokens=False)


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


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One token a lower-case word or punctuation mark of `texts`, the 30,000 commonest; same texts, same tokens."""
    rules = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    rules.normalizer = normalizers.Lowercase()
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=[UNKNOWN, START, END], show_progress=False)
    )
    around = [(token, rules.token_to_id(token)) for token in (START, END)]
    rules.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=around)
    return Tokenizer(rules)
