import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.data.loader import batches


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def indices(size, batch_size, seed=0, **options):
    return batches(size, lambda rows: rows, batch_size, seed, **options)


def test_an_epoch_holds_each_element_once_in_a_new_order():
    epochs = np.concatenate(take(indices(60, 20), 9)).reshape(3, 60)
    for epoch in epochs:
        assert sorted(epoch) == list(range(60))
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[0], np.arange(60))


def test_small_sets_go_round_within_a_batch():
    drawn = np.concatenate(take(indices(10, 16), 5))
    assert (np.bincount(drawn) == 8).all()
    assert next(indices(1, 3)).tolist() == [0, 0, 0]


def test_the_order_depends_on_the_seed():
    first, again, other = (np.concatenate(take(indices(50, 10, seed), 10)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:50], other[:50])
    # Neighbouring seeds must not be the same order an epoch apart.
    assert not np.array_equal(first[50:], other[:50])


def test_a_batch_is_found_again_from_its_number():
    through = take(indices(30, 8, 3), 12)
    for start in (0, 1, 7):
        np.testing.assert_array_equal(take(indices(30, 8, 3, start=start), 3), through[start : start + 3])


def test_the_state_is_what_was_consumed_not_prefetched():
    iterator = batches(30, lambda rows: rows**2, 8, 0)
    take(iterator, 3)
    state = iterator.get_state()
    assert state == {"next_index": 3}
    ahead = take(iterator, 6)
    iterator.set_state(state)
    np.testing.assert_array_equal(take(iterator, 6), ahead)
    fresh = batches(30, lambda rows: rows**2, 8, 0, start=8)
    fresh.set_state(state)
    np.testing.assert_array_equal(take(fresh, 6), ahead)
    assert indices(30, 8, start=5).get_state() == {"next_index": 5}


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batches_of_one(process_count):
    alone = take(indices(30, 8), 5)
    shares = [take(indices(30, 8, rows=rows), 5) for rows in np.split(np.arange(8), process_count)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), alone)


def test_an_error_while_making_a_batch_arrives():
    def fail(rows):
        raise InputError("record 3", "it cannot be read", "write it again")

    with pytest.raises(InputError, match="record 3"):
        next(batches(5, fail, 2, 0))


@pytest.mark.parametrize(
    ("size", "batch_size", "options", "message"),
    [
        (0, 4, {}, "size 0"),
        (4, 0, {}, "batch_size 0"),
        (4, 2.0, {}, "batch_size 2.0"),
        (4, 2, {"start": -1}, "start -1"),
    ],
)
def test_bad_sizes(size, batch_size, options, message):
    with pytest.raises(InputError, match=message):
        indices(size, batch_size, **options)
