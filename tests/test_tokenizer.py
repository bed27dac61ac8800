"""Prompts to token numbers, by a tokeniser of our own and by files in CLIP's form."""

import json

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.models.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["Anna waves and Ben sits in a park, drawn in ink.", "In a park, Ben waves while Anna sits, drawn in chalk."]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS)


def test_words_and_marks_are_tokens_whatever_their_case(tokenizer):
    words = {"anna", "waves", "and", "ben", "sits", "in", "a", "park", ",", "drawn", "ink", ".", "while", "chalk"}
    assert tokenizer.vocab_size == len(words) + 3
    np.testing.assert_array_equal(tokenizer.encode(["ANNA  waves,"], 8), tokenizer.encode(["anna waves ,"], 8))
    rows = tokenizer.encode(sorted(words), 3)
    assert (rows[:, 0] == tokenizer.start).all() and (rows[:, 2] == tokenizer.end).all()
    assert len(set(rows[:, 1])) == len(words)


def test_encode_pads_and_truncates(tokenizer):
    start, end = tokenizer.start, tokenizer.end
    anna, waves = tokenizer.encode(["anna waves"], 4)[0, 1:3]
    rows = tokenizer.encode(["Anna waves", "", "Anna waves and sits"], 4)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, [[start, anna, waves, end], [start, end, end, end], [start, anna, waves, end]])
    assert tokenizer.encode([], 4).shape == (0, 4)
    with pytest.raises(InputError, match="length 1: length is an integer ≥ 2"):
        tokenizer.encode(["Anna"], 1)


def test_truncated_names_the_prompts_that_lose_tokens(tokenizer):
    assert tokenizer.truncated(["Anna waves", "Anna waves.", ""], 4) == ["Anna waves."]
    assert tokenizer.truncated(["Anna waves", "Anna waves."], 5) == []


def test_unknown_words(tokenizer):
    assert tokenizer.unknown_words(["Zoë waves, Zoë SITS on a sofa", "Anna sits"]) == ["on", "sofa", "zoë"]
    assert tokenizer.unknown_words(TEXTS) == []


def test_the_same_texts_give_the_same_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a.json")
    train_tokenizer(iter(TEXTS)).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    loaded = Tokenizer.load(tmp_path / "a.json")
    np.testing.assert_array_equal(loaded.encode(TEXTS, 20), tokenizer.encode(TEXTS, 20))
    assert (loaded.start, loaded.end, loaded.pad) == (tokenizer.start, tokenizer.end, tokenizer.pad)
    assert loaded.unknown_words(["Zoë"]) == ["zoë"]


def test_files_in_clips_form(tmp_path):
    transformers = pytest.importorskip("transformers")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = [("c", "a"), ("ca", "t</w>"), ("o", "f</w>")]
    spelling = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens = [*spelling, "<|startoftext|>", "<|endoftext|>"]
    theirs = transformers.CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path / "tokenizer.json")
    prompts = ["a cat", "Picture of cats", ""]
    expected = theirs(prompts, padding="max_length", truncation=True, max_length=9).input_ids
    np.testing.assert_array_equal(ours.encode(prompts, 9), expected)
    assert ours.unknown_words(prompts) == []
    assert ours.truncated(prompts, 9) == ["Picture of cats"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"model": 3}'])
def test_corrupt_file(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer.json: it is no readable tokenizer.json"):
        Tokenizer.load(path)


def test_missing_file_and_file_of_another_kind(tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"none\.json: it is no readable"):
        Tokenizer.load(tmp_path / "none.json")
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    with pytest.raises(InputError, match="gives 0 tokens for no words: a start and an end token are needed"):
        Tokenizer.load(path)
