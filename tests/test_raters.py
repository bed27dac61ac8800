import re
from dataclasses import replace

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.statistics import wilson
from narrative_jax.storybook.corruptions import can_corrupt, corrupt
from narrative_jax.storybook.critiques import THINGS, critique, faults
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.oracle import ASPECTS, Judgement, judge
from narrative_jax.storybook.raters import NoiseModel, Rater
from narrative_jax.storybook.render import render
from narrative_jax.storybook.world import PORTRAIT_POSE
from narrative_jax.study import rater_agreement
from narrative_jax.study.rater_agreement import candidates, gold_verdicts, verdicts

SILENT = NoiseModel(**dict.fromkeys(vars(NoiseModel()), 0.0))


@pytest.fixture(scope="module")
def sample():
    return candidates(40, seed=1)


def test_draws_depend_on_seed_and_candidate_alone(sample):
    judgement, ids = sample
    scores = Rater(3).scores(judgement, ids)
    part = Judgement(judgement.criteria[8:12], judgement.aspects[8:12], judgement.findings[8:12])
    np.testing.assert_array_equal(Rater(3).scores(part, ids[8:12]), scores[8:12])
    assert not np.allclose(Rater(4).scores(judgement, ids), scores)


def test_a_pair_shown_the_other_way_round_gets_the_same_verdict(sample):
    judgement, ids = sample
    scores = Rater(0).scores(judgement, ids)
    pairs = [(i, i + 1) for i in range(0, len(ids), 2)]
    assert Rater(0).prefer(scores, ids, pairs) == Rater(0).prefer(scores, ids, [(j, i) for i, j in pairs])


def test_without_noise_a_rater_is_the_oracle(sample):
    judgement, ids = sample
    rater = Rater(0, SILENT)
    np.testing.assert_allclose(rater.scores(judgement, ids), 1 + 4 * judgement.aspects, atol=1e-5)
    gold = gold_verdicts(judgement, "overall")
    assert (verdicts(rater, judgement, ids, "overall") == gold)[gold != 0].all()


def test_scores_are_on_the_scale_and_annotations_to_a_tenth(sample):
    judgement, ids = sample
    scores = Rater(0).scores(judgement, ids)
    assert scores.shape == (len(ids), 3) and scores.min() >= 1 and scores.max() <= 5
    facts = [f for f in drawings("tune", range(40), 1)[0] for _ in range(rater_agreement.CANDIDATES)]
    annotations = Rater(0).annotate(judgement, facts, ids)
    assert [a.aspect for a in annotations[:3]] == list(ASPECTS) and annotations[0].annotator == "rater-0"
    np.testing.assert_allclose([a.score for a in annotations], scores.ravel(), atol=0.051)
    assert all(re.fullmatch(r"[A-Z].*\.", a.critique) and "None" not in a.critique for a in annotations)


def test_every_fault_that_is_named_is_known_by_its_words(sample):
    """As many kinds as the findings have, none of them strange; praise names nothing."""
    judgement, _ = sample
    all_facts = [f for f in drawings("tune", range(40), 1)[0] for _ in range(rater_agreement.CANDIDATES)]
    kinds = set()
    for seen, facts in zip(judgement.findings, all_facts, strict=True):
        found = {aspect: faults(critique(aspect, seen, facts)) for aspect in ASPECTS}
        kinds |= set.union(*found.values())
        prompt, identity, quality = found.values()
        assert {who for kind, who in prompt if kind == "missing"} == set(seen.missing)
        assert ("too many", "") in prompt or not seen.extra
        assert {who for kind, who in quality if kind == "cut"} == {c.name for c in seen.characters if c.cut > 0.1}
        wrong = {f"{c.name}'s {THINGS[attribute]}" for c in seen.characters for attribute in c.wrong}
        assert {what for kind, what in identity if kind in ("attribute", "leak")} == wrong
        lost = {f"{c.name}'s {part}" for c in seen.characters if c.cut <= 0.1 for part in c.missing_parts}
        assert {what for kind, what in quality if kind == "part"} == lost
        copied = {c.name for c in seen.characters if c.action == PORTRAIT_POSE}
        assert {who for kind, who in identity if kind == "copied"} == copied
    assert "other" not in {kind for kind, _ in kinds} and len({kind for kind, _ in kinds}) >= 12
    assert faults("Everyone looks as in the portrait.") == set() and faults("Zzz.") == {("other", "")}


def test_severity_is_lasting(sample):
    judgement, ids = sample
    raters = [Rater(seed, replace(SILENT, severity=0.4)) for seed in range(40)]
    biases = np.stack([r.scores(judgement, ids) - (1 + 4 * judgement.aspects) for r in raters])
    inside = (judgement.aspects > 0.3) & (judgement.aspects < 0.7)  # away from the ends of the scale
    assert biases[:, inside].std(axis=1).max() < 1e-5
    assert 0.25 < biases[:, inside].mean(1).std() < 0.55


def test_halo_draws_the_aspects_together(sample):
    judgement, ids = sample
    spread = [Rater(0, replace(SILENT, halo=h)).scores(judgement, ids).std(1).mean() for h in (0.0, 0.5, 1.0)]
    assert spread[0] > spread[1] > spread[2] and spread[2] < 1e-5


def test_close_pairs_flip_more_often(sample):
    judgement, ids = sample
    gaps = judgement.aspects.mean(1)
    gaps = np.array([gaps[i] - gaps[j] for i, j in rater_agreement._pairs(len(ids))])
    rater_votes = np.stack([verdicts(Rater(s), judgement, ids, "overall") for s in range(10)])
    right = rater_votes == np.sign(gaps)
    close = np.abs(gaps) < np.median(np.abs(gaps))
    assert right[:, ~close].mean() > right[:, close].mean() + 0.1


def test_copying_is_forgiven_only_where_somebody_copied():
    facts, drawing = drawings("tune", range(60))
    ids = [str(i) for i in range(60)]
    for kind in ("recolour", "leak", "lose a limb"):
        judgement = judge(corrupt(drawing, kind, 1), facts)
        strict, lenient = (Rater(0, replace(SILENT, copy_tolerance=v)).scores(judgement, ids) for v in (0.0, 1.0))
        copied = np.array([any(c.action == PORTRAIT_POSE for c in f.characters) for f in judgement.findings])
        np.testing.assert_array_equal(strict[~copied], lenient[~copied])


@pytest.mark.parametrize(
    ("field", "kind", "aspect"), [("copy_tolerance", "paste the portrait", 1), ("blindness", "leak", 1)]
)
def test_tolerance_and_blindness_raise_the_score(field, kind, aspect):
    facts, drawing = drawings("tune", range(60))
    able = np.flatnonzero(can_corrupt(drawing, kind))
    judgement = judge(corrupt(drawing[able], kind, 1), [facts[i] for i in able])
    ids = [str(i) for i in able]
    strict, lenient = (Rater(0, replace(SILENT, **{field: v})).scores(judgement, ids) for v in (0.0, 1.0))
    assert (lenient[:, aspect] >= strict[:, aspect] - 1e-6).all()
    assert lenient[:, aspect].mean() > strict[:, aspect].mean() + 0.1
    np.testing.assert_allclose(np.delete(lenient, aspect, 1), np.delete(strict, aspect, 1))


def test_lapses_come_at_their_rate(sample):
    judgement, ids = sample
    lapsing = replace(SILENT, lapse=0.2)
    off = [Rater(s, lapsing).scores(judgement, ids) != Rater(s, SILENT).scores(judgement, ids) for s in range(5)]
    interval = wilson(int(np.sum(off)), int(np.size(off)), 0.999)
    assert interval.low <= 0.2 <= interval.high


def test_ties(sample):
    judgement, ids = sample
    wide = Rater(0, replace(SILENT, tie=4.0))
    assert all(p.tie for p in wide.prefer(wide.scores(judgement, ids), ids, [(0, 1), (2, 3)]))


@pytest.mark.slow
def test_two_raters_agree_as_people_do(sample):
    judgement, ids = candidates(120, seed=0)
    figures = rater_agreement.agreement(judgement, ids, "overall")
    low, high = rater_agreement.TARGET
    assert low <= figures["two raters"] <= high
    assert low <= figures["two raters, no ties"] <= high
    assert figures["panel of 5 with the oracle"] > figures["one with the oracle"]
    assert figures["two panels of 5, no ties"] > figures["two raters, no ties"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("drop a character", r"is missing"),
        ("exchange actions", r"\w+ \w+s instead of \w+ing"),
        ("leak", r"has taken|have taken|like \w+'s|is \w+'s"),
        ("recolour", r"(is|are) (a )?[\w ]+ instead of"),
        ("paste the portrait", r"stands there instead of \w+ing|copied from the portrait"),
        ("wrong place", r"The scene is .*, not "),
        ("wrong style", r"It is (in|by) \w+, not (in|by) \w+"),
        ("cut off", r"is cut off at the edge"),
        ("overlap", r"is covered by somebody else"),
        ("lose a limb", r"'s (left|right) (arm|leg) is missing"),
        ("noise", r"hardly recognisable|noisy"),
    ],
)
def test_critiques_name_what_is_wrong(kind, says):
    facts, drawing = drawings("tune", range(12))
    able = np.flatnonzero(can_corrupt(drawing, kind))
    facts = [facts[i] for i in able]
    rater, ids = Rater(0, SILENT), [str(i) for i in able]
    notes = rater.annotate(judge(corrupt(drawing[able], kind, 1), facts), facts, ids)
    praise = rater.annotate(judge(render(drawing[able]), facts), facts, ids)
    told = {n.candidate_id for n in notes if re.search(says, n.critique)}
    assert len(told) >= 0.7 * len(ids), [n.critique for n in notes]
    assert not any(re.search(says, n.critique) for n in praise)


@pytest.mark.parametrize("seed", [0.5, "x", -2])
def test_bad_seeds(seed):
    with pytest.raises(InputError, match=r"seed .*integer"):
        Rater(seed)


def test_no_praise_for_what_cannot_be_read():
    facts, drawing = drawings("tune", range(64))
    rater, ids = Rater(0, SILENT), [str(i) for i in range(64)]
    judgement = judge(corrupt(drawing, "noise", 0.5), facts)
    notes = rater.annotate(judgement, facts, ids)
    for note, score in zip(notes, judgement.aspects.ravel(), strict=True):
        assert score > 0.8 or "everyone" not in note.critique.lower(), (note, score)


def test_bad_lengths(sample):
    judgement, ids = sample
    with pytest.raises(InputError, match=r"160 judged pictures beside 159.*one candidate id"):
        Rater(0).scores(judgement, ids[1:])


def test_bad_noise_and_aspect(sample):
    with pytest.raises(InputError, match=r"halo 2.*\[0, 1\]"):
        NoiseModel(halo=2)
    judgement, ids = sample
    with pytest.raises(InputError, match=r"unknown aspect 'quality'.*visual_quality"):
        Rater(0).prefer(Rater(0).scores(judgement, ids), ids, [(0, 1)], "quality")
