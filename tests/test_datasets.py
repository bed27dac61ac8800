import hashlib

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.statistics import wilson
from narrative_jax.storybook import datasets
from narrative_jax.storybook.datasets import TEST_SCENES, TrainingSet, drawings, scenes
from narrative_jax.storybook.oracle import CRITERIA, judge
from narrative_jax.storybook.render import render
from narrative_jax.storybook.world import ATTRIBUTES, identity_codes


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
    assert digest.hexdigest()[:16] == "5f028c1d55f9d218"


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


def test_the_raw_set_has_the_papers_flaws_at_their_rates():
    count = 800
    examples = TrainingSet("raw", count).batch(range(count))
    portraits = [s.images[0][~s.masks[0]] for e in examples for s in e.scene.subjects]
    busy = sum(not plain(p) for p in portraits)
    facts = [e.scene.facts for e in examples]
    judgement = judge(np.stack([e.target for e in examples]) / 127.5 - 1, facts)
    criteria = dict(zip(CRITERIA, judgement.criteria.T, strict=True))
    assert holds(busy, len(portraits), datasets.BUSY_PORTRAITS)
    assert holds((criteria["no_copy"] < 0.5).sum(), count, datasets.POSED)
    wrong = [any(c.wrong for c in findings.characters) for findings in judgement.findings]
    assert holds(np.sum(wrong), count, datasets.WRONG_IDENTITY)
    leaks = [any(len(c.wrong) == 1 and c.leaked for c in findings.characters) for findings in judgement.findings]
    assert 0.02 < np.mean(leaks) < 0.1


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
