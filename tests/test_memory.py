"""What was worked out before: found by its key, within bounds, for one set of weights, by any thread."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from narrative_jax.core.memory import MEGABYTE, Memory, content_key, size_of_arrays

KILO = 1 << 10


class Maker:
    """Makes an array of a kilobyte for each key, and notes for which it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, keys):
        self.asked.append(list(keys))
        return [np.full(KILO, key, np.uint8) for key in keys]


def kilobytes(count):
    """A memory for so many kilobytes."""
    return Memory(count * KILO / MEGABYTE)


def numbers(found):
    assert all((array == array[0]).all() for array in found)
    return [int(array[0]) for array in found]


def test_each_key_is_made_once():
    memory, make = Memory(), Maker()
    assert numbers(memory.look_up([3, 1, 3, 2], make)) == [3, 1, 3, 2]
    assert numbers(memory.look_up([2, 4, 1], make)) == [2, 4, 1]
    assert memory.look_up([], make) == []
    assert make.asked == [[3, 1, 2], [4]]
    (first,), (again,) = memory.look_up([1], make), memory.look_up([1], make)
    assert first is again


def test_the_oldest_go_first():
    memory, make = kilobytes(3), Maker()
    for part in ([1, 2], [3], [1], [4]):
        memory.look_up(part, make)
    assert numbers(memory.look_up([2, 3, 4, 1], make)) == [2, 3, 4, 1]
    assert make.asked == [[1, 2], [3], [4], [1]], "1 came first, though it was asked for again"


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_what_has_no_room_is_returned_all_the_same(room):
    memory, make = kilobytes(room), Maker()
    assert numbers(memory.look_up(range(10), make)) == list(range(10))
    memory.look_up(range(10 - room, 10), make)
    assert len(make.asked) == 1, "the last ones were kept"
    assert numbers(memory.look_up(range(10), make)) == list(range(10))
    assert make.asked[1] == list(range(10 - room)), "and no others"


def test_a_result_too_large_takes_the_room_of_none_that_come_later():
    memory, made = kilobytes(2), []

    def make(keys):
        made.extend(keys)
        return [np.zeros(key * KILO, np.uint8) for key in keys]

    for _ in range(3):
        memory.look_up([5], make)
        memory.look_up([1], make)
        memory.look_up([1], make)
    assert made == [5, 1] * 3


def test_sizes_of_ones_own():
    memory, make = Memory(1, size=lambda array: MEGABYTE // 2), Maker()
    memory.look_up([1, 2, 3], make)
    memory.look_up([2, 3], make)
    memory.look_up([1], make)
    assert make.asked == [[1, 2, 3], [1]]
    assert size_of_arrays({"a": np.zeros(3, np.float32), "b": (np.zeros((2, 2), np.int8), np.zeros(0))}) == 16


def test_other_weights_forget():
    memory, make = Memory(), Maker()
    weights = {"a": np.ones(2), "b": np.ones(2)}
    memory.look_up([1, 2], make, weights)
    memory.look_up([1, 2], make, dict(weights))
    assert make.asked == [[1, 2]], "the same arrays, in whatever dictionary"
    for other in (
        {**weights, "b": weights["b"].copy()},  # of the same content: nobody reads all weights to compare them
        {"a": weights["a"]},
        None,
        weights,
    ):
        memory.look_up([1], make, other)
        memory.look_up([1], make, other)
    assert make.asked[1:] == [[1]] * 4


def test_room_is_given_back_with_what_is_forgotten():
    memory, make = kilobytes(2), Maker()
    for number in range(3):
        weights = {"a": np.full(1, number)}
        memory.look_up([1, 2], make, weights)
        memory.look_up([1, 2], make, weights)
    assert make.asked == [[1, 2]] * 3


def test_an_error_leaves_what_was_known():
    memory, make = Memory(), Maker()
    memory.look_up([1], make)

    def fail(keys):
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        memory.look_up([1, 2], fail)
    assert numbers(memory.look_up([1, 2], make)) == [1, 2] and make.asked == [[1], [2]]


def test_too_few_results_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        Memory().look_up([1, 2], lambda keys: [np.zeros(1)])


def test_what_comes_late_with_other_weights_is_not_kept():
    """A thread makes results while another asks with other weights, and so forgets what the first one had."""
    memory, old, new = Memory(size=len), {"a": np.zeros(1)}, {"a": np.ones(1)}

    def slow(keys):
        memory.look_up(keys, lambda keys: ["new"] * len(keys), new)
        return ["old"] * len(keys)

    assert memory.look_up([1], slow, old) == ["old"]
    assert memory.look_up([1], lambda keys: ["again"], new) == ["new"]
    assert memory.look_up([1], lambda keys: ["again"], old) == ["again"]


def test_two_threads_make_the_same():
    """Both are answered, and it takes room once."""
    memory, both, later = kilobytes(2), Barrier(2), Maker()

    def make(keys):
        both.wait(timeout=10)
        return [np.full(KILO, key, np.uint8) for key in keys]

    with ThreadPoolExecutor(2) as pool:
        found = [asked.result() for asked in [pool.submit(memory.look_up, [1, 2], make) for _ in range(2)]]
    assert [numbers(each) for each in found] == [[1, 2], [1, 2]]
    memory.look_up([1, 2], later)
    assert later.asked == []


def test_many_threads():
    """Each gets what it asked for of its own weights, while others change them and push results out."""
    memory = kilobytes(5)
    weights = [{"a": np.full(1, number)} for number in range(3)]

    def ask(number):
        rng = np.random.default_rng(number)
        for _ in range(200):
            keys, mine = rng.integers(0, 20, rng.integers(1, 9)).tolist(), weights[rng.integers(3)]

            def make(keys, mine=mine):
                assert len(set(keys)) == len(keys)
                return [np.full(KILO, 20 * int(mine["a"][0]) + key, np.uint8) for key in keys]

            expected = [20 * int(mine["a"][0]) + key for key in keys]
            assert numbers(memory.look_up(keys, make, mine)) == expected
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    counted = Maker()
    last = weights[0]
    memory.look_up(range(100, 105), counted, last)
    memory.look_up(range(100, 105), counted, last)
    assert counted.asked == [list(range(100, 105))], "all of the room is there still"


def test_content_keys():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert content_key(array) == content_key(array.copy()) == content_key(array[:, ::-1][:, ::-1])
    different = [array, array.T, array.reshape(4, 3), array.astype(np.int8), array + 1, array[:, ::-1]]
    keys = [content_key(each) for each in different]
    keys += [content_key(array, array), content_key(array[:1], array[1:]), content_key(array[:2], array[2:])]
    assert len(set(keys)) == len(keys)
