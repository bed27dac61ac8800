from collections import defaultdict

import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from narrative_jax.core.errors import InputError
from narrative_jax.storybook import oracle
from narrative_jax.storybook.corruptions import CORRUPTIONS, can_corrupt, corrupt
from narrative_jax.storybook.datasets import drawings, scenes
from narrative_jax.storybook.evidence import recognition
from narrative_jax.storybook.oracle import ASPECTS, CRITERIA, judge
from narrative_jax.storybook.parse import parse
from narrative_jax.storybook.render import render
from narrative_jax.storybook.world import NUM_VALUES, PORTRAIT_POSE, POSES, WORLD, Character, Facts, World

COUNT = 96


@pytest.fixture(scope="module")
def tune():
    facts, drawing = drawings("tune", range(COUNT))
    pictures = render(drawing)
    return facts, drawing, pictures


@pytest.fixture(scope="module")
def seen(tune):
    return parse(tune[2])


def criterion(judgement, name):
    return judgement.criteria[:, CRITERIA.index(name)]


def test_true_scenes_are_nearly_perfect(tune):
    facts, _, pictures = tune
    assert judge(pictures, facts).aspects.mean(0).min() >= 0.97


def test_the_parse_finds_what_was_drawn(tune, seen):
    _, drawing, _ = tune
    found = seen.drawing
    assert (found.locations == drawing.locations).all() and (found.styles == drawing.styles).all()
    same, errors = found.present.sum(1) == drawing.present.sum(1), defaultdict(list)
    assert same.mean() > 0.97
    assert ((seen.distance < 0.06) == same).mean() > 0.97
    for row in np.flatnonzero(same):
        left_to_right = [d.places[row, d.present[row], 0].argsort() for d in (drawing, found)]
        for field, most in (("places", 0.6), ("poses", 0), ("identities", 0)):
            drawn, read = (
                getattr(d, field)[row][d.present[row]][order]
                for d, order in zip((drawing, found), left_to_right, strict=True)
            )
            errors[field].append(np.abs(drawn - read).max(-1).ravel() > most)
    for field, wrong in errors.items():
        assert np.concatenate(wrong).mean() < 0.02, field


def test_three_characters():
    world = World(max_characters=3)
    facts, drawing = drawings("tune", range(60), world=world)
    judgement = judge(render(drawing), facts, world)
    crowded = [len(f.characters) == 3 for f in facts]
    assert judgement.aspects[crowded].mean(0).min() > 0.85  # arms cover one another there


def test_any_float_picture_and_batch_size(tune):
    facts, _, pictures = tune
    alone = judge(pictures[:1].astype(np.float64), facts[:1]).criteria
    np.testing.assert_allclose(alone, judge(pictures[:70], facts[:70]).criteria[:1], atol=1e-4)
    assert judge(pictures[:2].astype(np.float16), facts[:2]).aspects.min() > 0.95
    assert np.isfinite(judge(np.zeros((1, 40, 40, 3)), facts[:1]).criteria).all()


def test_half_floats_of_accelerators_are_pictures_too(tune):
    facts, _, pictures = tune
    assert judge(pictures[:4].astype(ml_dtypes.bfloat16), facts[:4]).aspects.min() > 0.9


def test_pictures_are_not_written_to(tune):
    facts, _, pictures = tune
    kept = pictures.copy()
    judge(pictures[:8], facts[:8])
    np.testing.assert_array_equal(pictures, kept)


def test_somebody_else_has_next_to_no_identity(tune):
    facts, drawing, _ = tune
    alone = np.flatnonzero(drawing.present.sum(1) == 1)  # of two, the one may have what the other should have
    strangers = drawing[alone]
    strangers.identities[:] = (strangers.identities + 1) % np.array(NUM_VALUES)
    judgement = judge(render(strangers), [facts[i] for i in alone])
    assert judgement.aspects[:, 1].mean() < 0.02
    assert criterion(judgement, "count").mean() > 0.97


def test_a_sliver_of_a_figure_is_nobody(tune):
    facts, drawing, _ = tune
    slivers = drawing.copy()
    slivers.places[..., 0] = -5.0
    judgement = judge(render(slivers), facts)
    assert criterion(judgement, "count").max() == 0 and judgement.aspects[:, 1:].max() == 0


def test_figures_are_found_wherever_their_feet_are_in_the_lower_third(tune):
    facts, drawing, _ = tune
    alone = np.flatnonzero(drawing.present.sum(1) == 1)
    for height in (28.0, 32.0, 39.5):
        moved = drawing[alone]
        moved.places[..., 1] = height
        assert criterion(judge(render(moved), [facts[i] for i in alone]), "count").mean() > 0.97, height


def test_nobody_matched_is_no_identity(tune):
    facts, drawing, _ = tune
    empty = drawing.copy()
    empty.parts[:] = False
    judgement = judge(render(empty), facts)
    identity, quality = (
        judgement.aspects[:, list(ASPECTS).index(a)] for a in ("identity_consistency", "visual_quality")
    )
    assert identity.max() == 0 and quality.max() == 0
    assert criterion(judgement, "count").max() == 0
    assert criterion(judgement, "setting").mean() > 0.97, "the place and style are still right"
    assert all(
        set(f.missing) == {c.name for c in asked.characters} for f, asked in zip(judgement.findings, facts, strict=True)
    )


def damaged(tune, kind, seed=1):
    facts, drawing, _ = tune
    able = np.flatnonzero(can_corrupt(drawing, kind))
    return judge(corrupt(drawing[able], kind, 1, seed), [facts[i] for i in able]), [facts[i] for i in able]


def test_whoever_is_missing_has_no_identity(tune):
    judgement, _ = damaged(tune, "drop a character")
    assert criterion(judgement, "count").mean() == pytest.approx(0.5, abs=0.01)
    assert judgement.aspects[:, 1].mean() == pytest.approx(0.5, abs=0.02)
    assert criterion(judgement, "attributes").mean() > 0.97, "a criterion speaks of those who are there"
    assert all(len(f.missing) == 1 for f in judgement.findings)


def test_exchanged_actions_are_a_prompt_error_only(tune):
    judgement, facts = damaged(tune, "exchange actions")
    assert criterion(judgement, "actions").mean() < 0.05
    assert judgement.aspects[:, 1].mean() > 0.97
    for findings, asked in zip(judgement.findings, facts, strict=True):
        wanted = {c.name: c.action for c in asked.characters}
        assert all(c.action != wanted[c.name] for c in findings.characters)


def test_exchanged_characters_are_invisible_to_matching(tune):
    # Who stands left is nowhere asked for: exchanging the places of two figures with their actions is no fault.
    facts, drawing, _ = tune
    mirrored = drawing.copy()
    two = mirrored.present.all(1)
    mirrored.places[two] = mirrored.places[two][:, ::-1]
    assert judge(render(mirrored), facts).aspects.mean(0).min() > 0.97


def test_a_leak_is_told_with_its_owner(tune):
    judgement, facts = damaged(tune, "leak")
    assert criterion(judgement, "no_leak").mean() == pytest.approx(0.5, abs=0.02)
    told = 0
    for findings, asked in zip(judgement.findings, facts, strict=True):
        for character in findings.characters:
            for attribute, owner in character.leaked.items():
                own = next(c for c in asked.characters if c.name == owner)
                assert own.attributes[attribute] == character.wrong[attribute] and owner != character.name
                told += 1
    assert told >= 0.95 * len(facts)


def test_a_recoloured_attribute_is_named(tune):
    judgement, _ = damaged(tune, "recolour")
    wrong = [sum(len(c.wrong) for c in f.characters) for f in judgement.findings]
    assert np.mean(np.array(wrong) == 1) > 0.95


def test_a_copied_pose_costs_action_and_copy(tune):
    judgement, facts = damaged(tune, "paste the portrait")
    share = np.mean([1 / len(f.characters) for f in facts])
    assert criterion(judgement, "no_copy").mean() == pytest.approx(1 - share, abs=0.02)
    assert criterion(judgement, "actions").mean() == pytest.approx(1 - share, abs=0.02)


def test_a_copied_pose_is_not_paid_for_by_right_colours(tune):
    judgement, facts = damaged(tune, "paste the portrait")
    two = [len(f.characters) == 2 for f in facts]
    np.testing.assert_allclose(np.median(judgement.aspects[two, 1]), 0.5, atol=0.01)
    assert judgement.aspects[~np.array(two), 1].mean() < 0.03


def test_a_generator_that_copies_every_pose_has_no_identity(tune):
    """Though it draws everybody right: copy and paste is what the papers complain about first."""
    facts, drawing, _ = tune
    copied = drawing.copy()
    copied.poses[:] = POSES.index(PORTRAIT_POSE)
    judgement = judge(render(copied), facts)
    assert criterion(judgement, "attributes").mean() > 0.97 and judgement.aspects[:, 2].mean() > 0.97
    assert judgement.aspects[:, 1].mean() <= 0.05


def test_what_is_no_picture_of_this_world_shows_nobody(tune):
    """Right colours in blocks: attributes can be read off, and it is worth nothing."""
    facts, _, pictures = tune
    noise = np.random.default_rng(0).standard_normal(pictures.shape, np.float32)
    for share, alike in ((0.0, 1.0), (0.5, 0.3)):
        judgement = judge(np.clip(pictures + share * noise, -1, 1), facts)
        found = np.array([finding.alike for finding in judgement.findings])
        np.testing.assert_allclose(found, np.minimum(1, criterion(judgement, "cleanness") / 0.2), atol=1e-6)
        names = ("count", "actions", "attributes", "no_leak", "no_copy", "completeness", "composition")
        assert all((criterion(judgement, name) <= found + 1e-6).all() for name in names)
        assert (judgement.aspects[:, 1] <= found + 1e-6).all()
        assert found.mean() >= 0.99 if share == 0 else found.mean() < alike


def test_a_lost_limb_is_named(tune):
    judgement, _ = damaged(tune, "lose a limb")
    missing = [[part for c in f.characters for part in c.missing_parts] for f in judgement.findings]
    assert np.mean([len(parts) == 1 for parts in missing]) > 0.6  # some are hidden: an arm before the coat
    assert criterion(judgement, "completeness").mean() < 0.4


def test_characters_too_many_cost_counting(tune):
    facts, _, pictures = tune
    two = [i for i, f in enumerate(facts) if len(f.characters) == 2]
    alone = [Facts(facts[i].characters[:1], facts[i].location, facts[i].style) for i in two]
    judgement = judge(pictures[two], alone)
    assert criterion(judgement, "count").mean() == pytest.approx(0.5, abs=0.02)
    assert np.mean([f.extra for f in judgement.findings]) == pytest.approx(1, abs=0.05)
    assert judgement.aspects[:, 1].mean() > 0.97, "the one asked for is matched"


def test_matching_is_the_best_assignment():
    rng = np.random.default_rng(0)
    for wanted, found in [(1, 1), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3), (3, 4)]:
        for _ in range(50):
            agreement = rng.random((wanted, found))
            pairs = oracle._match(agreement)
            rows, columns = linear_sum_assignment(agreement, maximize=True)
            assert sum(agreement[p] for p in pairs) == pytest.approx(agreement[rows, columns].sum())
            assert len(pairs) == min(wanted, found)


def test_other_scenes_identities_are_at_chance(tune, seen):
    facts, _, _ = tune
    judgement = oracle.compare(seen, facts[1:] + facts[:1])
    chance = np.mean([1 / len(v) for v in oracle.ATTRIBUTES.values()])
    assert chance - 0.02 < criterion(judgement, "attributes").mean() < chance + 0.15  # matching picks the better one
    assert criterion(judgement, "actions").mean() < 0.35


def test_recognition_knows_nothing():
    sure = recognition(np.array([[0.0, 0.3, 0.4], [0.5, 0.5, 0.6], [0.0, 0.0, 0.5]]))
    np.testing.assert_allclose(sure[0], [1, 0, 0], atol=0.01)
    np.testing.assert_allclose(sure[1], 0, atol=1e-6)
    np.testing.assert_allclose(sure[2], [0.5, 0.5, 0], atol=0.01)


@pytest.mark.parametrize("most", [1, 3])
def test_damage_befalls_all_that_it_can_in_other_worlds(most):
    _, drawing = drawings("tune", range(60), world=World(max_characters=most))
    true = render(drawing)
    for kind in CORRUPTIONS:
        able = can_corrupt(drawing, kind)
        changed = (corrupt(drawing, kind, 1) != true).any((1, 2, 3))
        assert not (changed & ~able).any() and (changed[able].mean() > 0.9 if able.any() else most == 1), kind


def test_damage_grows_in_the_same_places(tune):
    _, drawing, pictures = tune
    for kind in CORRUPTIONS:
        weak, strong = (np.abs(corrupt(drawing, kind, s, 3) - pictures).max((1, 2, 3)) > 1e-6 for s in (0.4, 0.9))
        assert not (weak & ~strong).any(), kind
        np.testing.assert_array_equal(corrupt(drawing, kind, 0.0, 3), pictures)


def one(value=0.0, shape=(1, 40, 40, 3)):
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (one(shape=(1, 32, 32, 3)), r"shape \(1, 32, 32, 3\).*\[batch ≥ 1, 40, 40, 3\].*resize"),
        (one(shape=(1, 40, 40, 4)), r"shape \(1, 40, 40, 4\).*RGB only"),
        (one(shape=(40, 40, 3)), r"shape \(40, 40, 3\).*batch axis"),
        (one(shape=(0, 40, 40, 3)), r"batch ≥ 1"),
        (one(np.nan), r"NaN or infinity in pictures \[0\].*finite"),
        (one(np.inf), r"NaN or infinity"),
        (one(3.0), r"values from 3 to 3.*\[-1, 1\].*clip or rescale"),
        (np.zeros((1, 40, 40, 3), np.uint8), r"dtype uint8.*floats.*127.5"),
    ],
)
def test_bad_pictures(pictures, message):
    with pytest.raises(InputError, match=message):
        judge(pictures, [WORLD.facts("tune", 0, 0)])


def test_bad_scenes():
    facts = WORLD.facts("tune", 0, 0)
    with pytest.raises(InputError, match=r"a Scene: .*Facts; pass scene.facts"):
        judge(one(), scenes("tune", [0]))
    with pytest.raises(InputError, match=r"2 pictures and facts of 1 scenes"):
        judge(one(shape=(2, 40, 40, 3)), [facts])
    with pytest.raises(InputError, match=r"0 characters"):
        judge(one(), [Facts((), facts.location, facts.style)])
    attributes = dict(facts.characters[0].attributes, coat="plaid")
    with pytest.raises(InputError, match=r"unknown coat of Ada 'plaid'"):
        judge(one(), [Facts((Character("Ada", attributes, "sits"),), facts.location, facts.style)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosie", 1.0), r"unknown corruption 'nosie'.*'noise'"),
        (("noise", 1.5), r"strength 1.5.*\[0, 1\]"),
        (("noise", "a"), r"strength 'a'.*\[0, 1\]"),
        (("noise", 0.5, "a"), r"seed 'a'.*integer"),
    ],
)
def test_bad_corruptions(tune, arguments, message):
    with pytest.raises(InputError, match=message):
        corrupt(tune[1], *arguments)
