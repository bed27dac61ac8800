"""Talk with a Qwen model as tokens, by its own `tokenizer.json`."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_bytes

PICTURE_TOKEN, END_TOKEN, PAD_TOKEN = "<|image_pad|>", "<|im_end|>", "<|endoftext|>"
PICTURE = f"<|vision_start|>{PICTURE_TOKEN}<|vision_end|>"  # where a picture stands in a question
_SYSTEM = "You are a helpful assistant."


def question(text: str) -> str:
    """The prompt that asks this of the assistant, up to where the answer begins; `PICTURE` stands for a picture."""
    turns = {"system": _SYSTEM, "user": text}
    said = "".join(f"<|im_start|>{role}\n{words}{END_TOKEN}\n" for role, words in turns.items())
    return f"{said}<|im_start|>assistant\n"


def next_question(text: str) -> str:
    """What is asked after an answer, as `question` does."""
    return f"\n<|im_start|>user\n{text}{END_TOKEN}\n<|im_start|>assistant\n"


class ChatTokenizer:
    """Texts as tokens and back. `picture` stands for a picture, `end` closes an answer, `pad` fills a row."""

    def __init__(self, rules: tokenizers.Tokenizer):
        """Raises InputError for rules that do not know these tokens."""
        rules.no_padding()
        rules.no_truncation()
        self._rules = rules
        self.picture, self.end, self.pad = map(self._token, (PICTURE_TOKEN, END_TOKEN, PAD_TOKEN))

    @classmethod
    def load(cls, path: str | Path) -> "ChatTokenizer":
        """Read a `tokenizer.json`. Raises InputError where it is missing, corrupt, or not that of a Qwen2-VL."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except InputError:
            raise
        except Exception as error:  # the library raises nothing narrower
            rule = f"it is no readable tokenizer.json ({error})"
            raise InputError(f"{path}", rule, "copy or download it again, or give another") from None

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self._rules.get_vocab_size()

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`. Raises InputError where the disk refuses."""
        write_bytes(Path(path), self._rules.to_str().encode())

    def encode(self, text: str) -> np.ndarray:
        """i32[n]; the names of special tokens in the text become these."""
        return np.array(self._rules.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return self._rules.decode([int(token) for token in tokens])

    def _token(self, name):
        token = self._rules.token_to_id(name)
        if token is None:
            raise InputError("the tokeniser", f"it has no token {name}", "give the tokenizer.json of a Qwen2-VL")
        return token


def train_chat_tokenizer(texts: Iterable[str], vocab_size: int, phrases: Sequence[str] = ()) -> ChatTokenizer:
    """Byte pairs of `texts` in the manner of Qwen's, and `phrases` that are a token each behind a space, up to so many
    tokens in all; same texts, same tokens.
    """
    rules = tokenizers.Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    special = [PAD_TOKEN, *re.findall(r"<\|\w+\|>", question(PICTURE))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(phrases),
        special_tokens=list(dict.fromkeys(special)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(texts, trainer)
    rules.add_tokens([tokenizers.AddedToken(f" {phrase}", normalized=False) for phrase in phrases])
    return ChatTokenizer(rules)
