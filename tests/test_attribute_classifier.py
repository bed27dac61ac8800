"""The independent check of the oracle: the network learns, and the comparison counts what it should."""

import re
from dataclasses import replace

import numpy as np
import pytest

from narrative_jax.statistics import wilson
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.parse import parse
from narrative_jax.storybook.render import render
from narrative_jax.storybook.world import NUM_VALUES, split_identities
from narrative_jax.study.attribute_classifier import (
    CONDITIONS,
    compare,
    evaluate,
    main,
    match,
    report,
    shares,
)
from narrative_jax.study.classifier import practice, read, train

SCENES = 16


@pytest.fixture(scope="module")
def staged():
    """True drawings of a few scenes, and the oracle's parse of their pictures."""
    _, truth = drawings("tune", range(SCENES))
    return truth, parse(render(truth))


def seen_by_the_oracle(truth, seen):
    return np.take_along_axis(seen.drawing.identities, np.maximum(match(truth, seen), 0)[..., None], 1)


@pytest.mark.slow
def test_learns_a_small_set_by_heart():
    batch = practice(np.random.default_rng(3), 16)
    network, losses = train(40, draw=lambda rng: batch)
    assert np.mean(losses[:3]) > 1.2  # guessing one of five costs 1.6
    assert np.mean(losses[-3:]) < 0.6
    pictures, truth = batch
    right = (read(network, pictures, truth) == truth.identities)[truth.present]
    assert right.mean() > 0.7


def test_practises_with_people_of_the_train_split_only():
    _, drawing = practice(np.random.default_rng(0), 200)
    people = np.ravel_multi_index(np.moveaxis(drawing.identities, -1, 0), NUM_VALUES)
    assert np.isin(people, split_identities("train")).all()


@pytest.mark.slow
def test_the_reading_depends_on_places_but_on_nothing_else_that_is_true():
    pictures, truth = practice(np.random.default_rng(1), 16)
    network, _ = train(1, draw=lambda rng: (pictures, truth))
    other = truth.copy()
    other.identities[:], other.poses[:], other.styles[:] = 0, 0, 0
    np.testing.assert_array_equal(read(network, pictures, truth), read(network, pictures, other))


def test_the_oracles_own_reading_agrees_fully(staged):
    truth, seen = staged
    one = compare(seen_by_the_oracle(truth, seen), truth, seen)
    assert len(one.readings) > 100
    assert shares(one.readings)[0].startswith("100.0")
    assert one.counts.tolist()[:3] == [truth.present.sum(), 0, 0]


def test_every_wrong_value_lowers_the_agreement_by_its_share(staged):
    truth, seen = staged
    values = seen_by_the_oracle(truth, seen)
    values[:, :, 2] += 1
    one = compare(values, truth, seen)
    wrong = one.readings[:, 2] != one.readings[:, 3]
    assert set(one.readings[wrong, 1]) == {2}
    share, low, high = wilson(int((~wrong).sum()), len(wrong))
    assert shares(one.readings)[0] == f"{100 * share:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def test_figures_are_matched_by_place_whatever_their_order(staged):
    truth, seen = staged
    two = np.flatnonzero(truth.present.all(1))
    turned = seen.drawing.copy()
    turned.places[two, :2] = seen.drawing.places[two, 1::-1]
    swapped = match(truth, replace(seen, drawing=turned))
    np.testing.assert_array_equal(swapped[two], match(truth, seen)[two, ::-1])


def test_a_figure_far_off_is_missed_and_its_double_invented(staged):
    truth, seen = staged
    moved = truth.copy()
    moved.places[0, 0, 0] += 12.0
    one = compare(truth.identities, moved, seen)
    assert one.counts.tolist()[1:3] == [1, 1]


def test_the_truth_compared_with_is_that_of_the_damaged_pictures():
    compared = evaluate(4, 0, lambda pictures, truth: truth.identities)
    assert list(compared) == CONDITIONS
    for readings, _ in compared.values():
        np.testing.assert_array_equal(readings[:, 2], readings[:, 4])
        assert set(readings[:, 0]) <= set(range(4))
    recoloured = compared["recolour", 1.0].readings
    assert (recoloured[:, 3] == recoloured[:, 4]).all()
    table = report(compared)
    row = f"| recolour | 1.0 | {len(recoloured) // 7} | 0 | 0 | {len(recoloured)} | 0 | 100.0 "
    assert row in re.sub(" +", " ", table)


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--scenes", "0"], ["--seed", "-1"], ["--out", "no/such"]])
def test_bad_flags_end_with_one_line(flags, capsys):
    assert main(flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
