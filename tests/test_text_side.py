"""A generator's reading half: encodings that depend on the prompt and the weights, and on nothing else."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from narrative_jax.core.memory import MEGABYTE, Memory
from narrative_jax.generators import text as text_module
from narrative_jax.generators.flow import TEXT_ENCODER
from narrative_jax.generators.text import TextSide
from narrative_jax.models.network import below

ONE, TWO = "Uma walks by the castle, in crayon.", "In the forest, Sem walks while Kim waves, in gouache."
PROMPTS = [
    "Zoe reads in the library, in pastel.",
    ONE,
    TWO,
    "",
    "Uma sits by the castle, in crayon.",
    ONE,
    "unheard of",
]


@pytest.fixture
def fresh_text(tiny_generator):
    """The text side with nothing in its memory, for `room` prompts, and its weights."""
    generator, params = tiny_generator
    text = generator.text

    def make(room=1000):
        size = 4 * 128 * (text.length + 1)
        return TextSide(text.tokenizer, text.network, text.length, Memory(room * size / MEGABYTE))

    return make, below(TEXT_ENCODER, params)


def test_encodings_do_not_depend_on_their_batch(fresh_text):
    fresh, params = fresh_text
    expected, text = fresh().encode(params, PROMPTS), fresh(room=3)  # its memory overflows on the way
    assert len({row.tobytes() for row in expected[0]}) == len(set(PROMPTS))
    for part in ([6], [2, 1], [5, 0, 3, 4, 6], [1]):
        for whole, found in zip(expected, text.encode(params, [PROMPTS[i] for i in part]), strict=True):
            np.testing.assert_array_equal(found, whole[part])
    assert text._run._cache_size() == 1


def test_more_prompts_than_a_batch(fresh_text, monkeypatch):
    fresh, params = fresh_text
    expected = fresh().encode(params, PROMPTS)
    monkeypatch.setattr(text_module, "_BATCH", 2)
    for whole, found in zip(expected, fresh().encode(params, PROMPTS), strict=True):
        np.testing.assert_allclose(found, whole, atol=1e-5)


def test_a_prompt_is_encoded_once(fresh_text):
    fresh, params = fresh_text
    side = fresh(room=2)
    side.encode(params, [ONE, ONE, TWO])
    side.__dict__["_run"] = None  # nothing is left that could encode
    text, _ = side.encode(dict(params), [TWO, ONE, TWO])
    np.testing.assert_array_equal(text[0], text[2])
    with pytest.raises(TypeError, match="not callable"):
        side.encode(jax.tree.map(np.copy, params), [ONE])  # other weights


def test_a_prompt_that_is_remembered_holds_no_others(fresh_text):
    """A batch is filled up, and its rows are views of it: one that stays would keep all of them."""
    fresh, params = fresh_text
    side = fresh()
    side.encode(params, [ONE])
    assert all(array.base is None for array in side._known.look_up([ONE], None, params)[0])


def test_text_is_encoded_by_any_thread(fresh_text):
    """Loader and sampler ask at the same time, also with the weights of two generators; memory overflows."""
    fresh, params = fresh_text
    weights = [params, jax.tree.map(lambda value: value + np.float32(0.1), params)]
    expected = [fresh().encode(each, PROMPTS) for each in weights]
    assert np.abs(expected[0][0] - expected[1][0]).max() > 0.01
    side = fresh(room=4)

    def ask(number):
        rng = np.random.default_rng(number)
        for _ in range(6):
            which, part = rng.integers(2), rng.integers(0, len(PROMPTS), 3)
            found = side.encode(weights[which], [PROMPTS[i] for i in part])
            for whole, rows in zip(expected[which], found, strict=True):
                np.testing.assert_array_equal(rows, whole[part])
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(6)))
