import hashlib

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.statistics import wilson
from narrative_jax.storybook import datasets, flaws
from narrative_jax.storybook.datasets import KINDS, TEST_SCENES, TrainingSet, drawings, scenes
from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.oracle import CRITERIA, judge
from narrative_jax.storybook.parse import parse
from narrative_jax.storybook.render import render
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.world import ATTRIBUTES, NUM_VALUES, SPLITS, identity_codes, is_held_out, split_identities


def test_a_scene_has_a_portrait_for_each_character_in_order():
    for scene in scenes("tune", range(20)):
        assert [s.name for s in scene.subjects] == [c.name for c in scene.facts.characters]
        assert all(s.images.dtype == np.uint8 and s.images.shape == (1, 24, 24, 3) for s in scene.subjects)
        assert scene.split == "tune" and scene.id.startswith("tune-0-")


def test_any_part_of_a_set_can_be_drawn_alone():
    alone, among = scenes("test", [7])[0], scenes("test", range(10))[7]
    assert (alone.id, alone.prompt, alone.facts) == (among.id, among.prompt, among.facts)
    np.testing.assert_array_equal(alone.subjects[0].images, among.subjects[0].images)
    np.testing.assert_array_equal(render(drawings("test", [7])[1])[0], render(drawings("test", range(10))[1])[7])


def test_the_test_set_is_fixed():
    # Results of different versions are comparable only while these pixels and words stay as they are.
    digest = hashlib.sha256()
    _, drawing = drawings("test", range(TEST_SCENES))
    digest.update(np.round((render(drawing) + 1) * 127.5).astype(np.uint8).tobytes())
    for scene in scenes("test", range(TEST_SCENES)):
        digest.update(scene.prompt.encode())
        for subject in scene.subjects:
            digest.update(subject.images.tobytes())
    assert digest.hexdigest()[:16] == "70ea54e8b2fae37c"


def test_random_access_equals_batches():
    examples = TrainingSet("raw", 100)
    assert len(examples) == 100
    batch = examples.batch([5, 6, 99])
    np.testing.assert_array_equal(batch[2].target, examples[99].target)
    np.testing.assert_array_equal(examples[-1].target, examples[99].target)
    with pytest.raises(IndexError, match="example 100 of a set of 100"):
        examples[100]


def test_another_seed_is_another_set():
    assert TrainingSet("raw", 5, seed=1)[0].scene.facts != TrainingSet("raw", 5)[0].scene.facts


def plain(ground):
    """Whether most pixels u8[n, 3] outside the figure are of one colour, the plain ground's."""
    return (ground == 245).all(-1).mean() > 0.6


def holds(successes, total, rate):
    interval = wilson(int(successes), int(total), confidence=0.999)
    return interval.low <= rate <= interval.high


@pytest.mark.slow
def test_the_raw_set_has_the_papers_flaws_at_their_rates():
    count = 800
    examples = TrainingSet("raw", count).batch(range(count))
    portraits = [s.images[0][~s.masks[0]] for e in examples for s in e.scene.subjects]
    busy = sum(not plain(p) for p in portraits)
    facts = [e.scene.facts for e in examples]
    judgement = judge(np.stack([e.target for e in examples]) / 127.5 - 1, facts)
    criteria = dict(zip(CRITERIA, judgement.criteria.T, strict=True))
    assert holds(busy, len(portraits), datasets.BUSY_PORTRAITS)
    assert holds((criteria["no_copy"] < 0.5).sum(), count, flaws.POSED)
    wrong = [any(c.wrong for c in findings.characters) for findings in judgement.findings]
    assert holds(np.sum(wrong), count, flaws.WRONG_IDENTITY)
    leaks = [any(len(c.wrong) == 1 and c.leaked for c in findings.characters) for findings in judgement.findings]
    assert 0.02 < np.mean(leaks) < 0.1


@pytest.mark.slow
def test_the_refined_set_has_none():
    examples = TrainingSet("refined", 200).batch(range(200))
    judgement = judge(np.stack([e.target for e in examples]) / 127.5 - 1, [e.scene.facts for e in examples])
    assert judgement.aspects.mean(0).min() > 0.97
    wrong = [len(c.wrong) / len(ATTRIBUTES) for findings in judgement.findings for c in findings.characters]
    assert np.mean(wrong) < 0.002, "no more than the oracle misreads"
    assert all(plain(s.images[0][~s.masks[0]]) for e in examples for s in e.scene.subjects)


def test_training_identities_are_of_the_train_split():
    own = {tuple(identity_codes(c.attributes)) for s in scenes("train", range(300)) for c in s.facts.characters}
    others = {tuple(identity_codes(c.attributes)) for s in scenes("test", range(300)) for c in s.facts.characters}
    assert not own & others


def test_the_true_set_has_raw_portraits_and_refined_pictures():
    raw, refined, true = (TrainingSet(kind, 60).batch(range(60)) for kind in ("raw", "refined", "true"))
    for rough, clean, both in zip(raw, refined, true, strict=True):
        assert both.scene.id == clean.scene.id == rough.scene.id
        assert both.scene.facts == clean.scene.facts == rough.scene.facts
        np.testing.assert_array_equal(both.target, clean.target)
        for one, other in zip(both.scene.subjects, rough.scene.subjects, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
    assert any((rough.target != both.target).any() for rough, both in zip(raw, true, strict=True))
    busy = [not plain(s.images[0][~s.masks[0]]) for e in true for s in e.scene.subjects]
    assert 0.2 < np.mean(busy) < 0.8


def test_half_of_the_worn_pictures_are_noisy_or_blurred():
    """Of the raw set's own, and nothing else of it changes."""
    raw, worn = (TrainingSet(kind, 200).batch(range(200)) for kind in ("raw", "worn"))
    moved, rougher = [], []
    for one, other in zip(raw, worn, strict=True):
        assert one.scene.prompt == other.scene.prompt
        for subject, same in zip(one.scene.subjects, other.scene.subjects, strict=True):
            np.testing.assert_array_equal(subject.images, same.images)
        before, after = np.float32(one.target), np.float32(other.target)
        if (before != after).any():
            moved.append(np.sqrt(np.square(after - before).mean()) / 127.5)
            rougher.append(np.abs(np.diff(after, axis=0)).mean() > np.abs(np.diff(before, axis=0)).mean())
    assert 80 < len(moved) < 120 and max(moved) < 0.5
    assert 0.3 < np.mean(rougher) < 0.7, "noise makes rougher, blur smoother"


def test_what_a_changed_picture_shows_its_scene_does_not_tell():
    """Captions and portraits are the true set's; of what is shown half is drawn anew, of people of the split only."""
    true, changed = TrainingSet("true", 300), TrainingSet("changed", 300)
    asked = true.batch(range(300))
    for one, other in zip(asked, changed.batch(range(300)), strict=True):
        assert (one.scene.prompt, one.scene.facts) == (other.scene.prompt, other.scene.facts)
    before, after = (each._drawing(range(300)) for each in (true, changed))
    there = after.present
    people = np.ravel_multi_index(np.moveaxis(after.identities[there], -1, 0), NUM_VALUES)
    assert np.isin(people, split_identities("train")).all()
    assert 0.05 < 1 - there[before.present.sum(1) == 2].mean() < 0.11, "one of two is gone in 15 %"
    assert (there.sum(1) > 0).all()
    same = (after.identities == before.identities)[there]
    assert 0.4 < same.all(-1).mean() < 0.65 and 0.65 < same.mean() < 0.85
    assert 0.4 < (after.poses == before.poses)[there].mean() < 0.75
    assert 0.4 < (after.locations == before.locations).mean() < 0.7
    assert 0.4 < (after.styles == before.styles).mean() < 0.75
    limbs = [part not in ("head", "torso") for part in PARTS]
    lost = ~after.parts[there]
    assert 0.27 < lost[:, limbs].mean() < 0.33 and not lost[:, np.logical_not(limbs)].any()


@pytest.mark.parametrize("kind", KINDS)
def test_no_training_picture_shows_what_is_held_out(kind):
    drawing = TrainingSet(kind, 300)._drawing(range(300))
    for row, slot in np.argwhere(drawing.present):
        assert not is_held_out(drawing.poses[row, slot], drawing.locations[row], drawing.styles[row])


def test_splits_change_alike():
    """A small split has fewer people that differ in a part of their attributes, and they are found."""
    kept = []
    for split in ("train", "test"):
        true, changed = (TrainingSet(kind, 400, split=split)._drawing(range(400)) for kind in ("true", "changed"))
        same = (true.identities == changed.identities)[changed.present]
        kept.append(same[~same.all(-1)].mean())
    assert abs(kept[0] - kept[1]) < 0.06


def test_whereabouts_are_where_a_blind_reader_finds_the_subjects():
    examples = TrainingSet("true", 60, split="tune")
    pictures = np.stack([example.target for example in examples.batch(range(60))])
    seen = parse(np.float32(pictures) / 127.5 - 1).drawing
    compared, sides = 0, set()
    for row, places in enumerate(examples.whereabouts(range(60))):
        characters = examples[row].scene.facts.characters
        assert len(places) == len(characters)
        for character, place in zip(characters, places, strict=True):
            same = (seen.identities[row] == identity_codes(character.attributes)).all(-1) & seen.present[row]
            for slot in np.flatnonzero(same):
                assert abs(seen.places[row, slot, 0] - place * SIZE) < 1
                compared += 1
        if len(places) == 2:
            sides.add(places[0] < places[1])
    assert compared > 60 and sides == {True, False}, "either one may stand on the left"


def test_whereabouts_are_the_same_alone_and_whoever_is_shown():
    raw, true = TrainingSet("raw", 50), TrainingSet("true", 50)
    assert raw.whereabouts(range(50)) == true.whereabouts(range(50))
    assert raw.whereabouts([7, -1, 7]) == [raw.whereabouts(range(50))[i] for i in (7, 49, 7)]
    with pytest.raises(IndexError, match="example 50 of a set of 50"):
        raw.whereabouts([50])


@pytest.mark.parametrize("kind", ["raw", "true", "worn", "changed"])
def test_an_example_does_not_depend_on_its_set_and_batch(kind):
    alone, among = TrainingSet(kind, 9, split="tune")[8], TrainingSet(kind, 500, split="tune").batch([499, 8, 0])[1]
    assert (alone.scene.id, alone.scene.prompt) == (among.scene.id, among.scene.prompt)
    np.testing.assert_array_equal(alone.target, among.target)
    for one, other in zip(alone.scene.subjects, among.scene.subjects, strict=True):
        np.testing.assert_array_equal(one.images, other.images)


@pytest.mark.slow
def test_training_sets_of_two_splits_share_nobody():
    people, first = {}, {}
    for split in SPLITS:
        examples = TrainingSet("raw", 300, split=split)
        first[split] = examples[0]
        facts = [example.scene.facts for example in examples.batch(range(300))]
        people[split] = {tuple(identity_codes(c.attributes)) for each in facts for c in each.characters}
        assert first[split].scene.split == split and first[split].scene.id.startswith(split)
    assert all(len(found) > 200 for found in people.values())
    assert not any(people[one] & people[other] for one in SPLITS for other in SPLITS if one < other)
    assert len({example.target.tobytes() for example in first.values()}) == 3


def test_a_stranger_in_a_raw_picture_is_of_the_same_split():
    asked, drawing = drawings("tune", range(300))
    for row in range(300):
        flaws.spoil(drawing, row, np.random.default_rng(row), "tune")
    shown = drawing.identities[drawing.present]
    own = np.stack(np.unravel_index(split_identities("tune"), NUM_VALUES), -1)
    strange = ~(shown[:, None] == own).all(-1).any(1)
    changed = [
        not (drawing.identities[row, slot] == [identity_codes(c.attributes) for c in facts.characters]).all(-1).any()
        for row, facts in enumerate(asked)
        for slot in np.flatnonzero(drawing.present[row])
    ]
    # A leaked attribute, about a quarter of the changes, makes a mixture that may be nobody's of the split.
    assert strange.sum() < 0.5 * np.sum(changed) and np.sum(changed) > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("true", 10, 0, datasets.WORLD, "tst"), r"unknown split 'tst'.*did you mean 'test'"),
        (("rwa", 10), r"unknown training set 'rwa'.*did you mean 'raw'"),
        (("raw", 0), r"size 0.*≥ 1"),
        (("raw", 10, 0.5), r"seed 0.5.*integer"),
    ],
)
def test_bad_training_sets(arguments, message):
    with pytest.raises(InputError, match=message):
        TrainingSet(*arguments)


def test_bad_share_of_busy_portraits():
    with pytest.raises(InputError, match=r"busy_portraits 3.*\[0, 1\]"):
        scenes("train", [0], busy_portraits=3)
