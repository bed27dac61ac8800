"""Intervals and agreement against published values, closed forms, simulation and real human labels."""

import csv
import itertools
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import optimize, stats

from narrative_jax.core.errors import InputError
from narrative_jax.statistics import (
    Interval,
    alpha_interval,
    calibration_error,
    krippendorff_alpha,
    majority,
    paired_bootstrap,
    paired_share,
    pairwise_agreement,
    wilson,
    win_rate,
)
from narrative_jax.study.coverage import STUDIES, coverage, main

NAN = np.nan
# Krippendorff 2011, example C: four observers, twelve units, missing values.
EXAMPLE_C = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def outcomes_of(wins: int, ties: int, losses: int) -> np.ndarray:
    return np.repeat([1, 0, -1], [wins, ties, losses])


# Intervals


def test_paired_bootstrap_nears_the_t_interval_of_many_units():
    rng = np.random.default_rng(0)
    treated, baseline = rng.normal(0.3, 1, 2000), rng.normal(0, 1, 2000)
    differences = treated - baseline
    for confidence in (0.8, 0.95, 0.99):
        interval = paired_bootstrap(treated, baseline, confidence, num_resamples=5000)
        expected = stats.t.interval(confidence, 1999, differences.mean(), stats.sem(differences))
        assert interval.estimate == pytest.approx(differences.mean())
        np.testing.assert_allclose(interval[1:], expected, atol=0.05 * (expected[1] - expected[0]))


def test_paired_bootstrap_expands_the_percentiles_of_few_units():
    """Six units at 80 %: t is 1.4759, times √(6/5) 1.6168, so the tails are Φ(-1.6168) = 5.30 %, not 10 %."""
    differences = np.array([0.113, 0.427, 0.559, 0.941, 1.327, 2.618])  # no grid of means
    resamples = np.random.default_rng(9).choice(differences, size=(40_000, 6)).mean(axis=1)
    expected = np.quantile(resamples, [0.0530, 0.9470])
    interval = paired_bootstrap(differences, np.zeros(6), 0.8, num_resamples=40_000)
    np.testing.assert_allclose(interval[1:], expected, atol=0.015)


def test_paired_bootstrap_is_paired():
    rng = np.random.default_rng(0)
    baseline = rng.normal(0, 10, 100)  # units differ far more than the arms
    treated = baseline + 1 + 0.1 * rng.normal(size=100)
    paired, unpaired = paired_bootstrap(treated, baseline), paired_bootstrap(treated, baseline[::-1])
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert 0.03 < paired.high - paired.low < 0.05 and unpaired.high - unpaired.low > 4


def test_paired_bootstrap_follows_its_seed_only():
    treated, baseline = np.random.default_rng(0).normal(size=(2, 30))
    state = np.random.get_state()[1].copy()
    assert paired_bootstrap(treated, baseline, seed=3) == paired_bootstrap(treated, baseline, seed=3)
    assert paired_bootstrap(treated, baseline, seed=3) != paired_bootstrap(treated, baseline, seed=4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("difference", [0.0, 0.5, 0.1])
def test_equal_differences_are_a_point(difference):
    baseline = np.arange(6.0)  # 0.1 makes differences that are equal up to rounding
    interval = paired_bootstrap(baseline + difference, baseline)
    np.testing.assert_allclose(interval, difference, atol=1e-14)


@pytest.mark.parametrize("successes, total", [(0, 20), (1, 29), (15, 148), (81, 263), (263, 263)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_closed_form(successes, total, confidence):
    z, p = stats.norm.ppf((1 + confidence) / 2), successes / total
    root = z * np.sqrt(z**2 + 4 * total * p * (1 - p))
    ends = (2 * successes + z**2 + np.array([-root, root])) / (2 * (total + z**2))
    np.testing.assert_allclose(wilson(successes, total, confidence), [p, *ends], atol=1e-12)


@pytest.mark.parametrize(
    "successes, total, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(successes, total, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3."""
    np.testing.assert_allclose(wilson(successes, total)[1:], [low, high], atol=5e-5)


def test_paired_share_resamples_groups():
    """Trials told five times over say no more; told apart they would."""
    rng = np.random.default_rng(0)
    one, other = rng.random(60) < 0.8, rng.random(60) < 0.6
    groups = np.repeat([f"scene {place}" for place in range(20)], 3)
    interval = paired_share(one, other, groups)
    assert interval.estimate == pytest.approx(one.mean() - other.mean())
    assert paired_share(*(np.tile(each, 5) for each in (one, other, groups))) == interval
    assert paired_share(one, other, np.arange(60)) != interval
    alone = paired_bootstrap(one.astype(float), other.astype(float))
    assert paired_share(one, other, np.arange(60)) == pytest.approx(alone), "each a group of its own"


def test_win_rate_without_ties_is_wilson():
    for wins, losses in ((30, 20), (7, 0), (0, 9), (1, 0)):
        ours, theirs = win_rate(outcomes_of(wins, 0, losses), 0.9), wilson(wins, wins + losses, 0.9)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_win_rate_solves_the_score_equation():
    outcomes, z = outcomes_of(30, 25, 9), stats.norm.ppf(0.975)
    half_points, ties = (outcomes + 1) / 2, 25 / 66

    def excess(rate):
        return abs(half_points.mean() - rate) - z * np.sqrt((rate * (1 - rate) - ties / 4) / 64)

    interval = win_rate(outcomes)
    ends = [optimize.brentq(excess, 0.3, 0.6), optimize.brentq(excess, 0.7, 0.85)]
    np.testing.assert_allclose(interval, [half_points.mean(), *ends], atol=1e-9)


def test_win_rate_nears_the_bootstrap_of_half_points():
    outcomes = outcomes_of(900, 800, 300)
    interval, bootstrapped = win_rate(outcomes), paired_bootstrap(outcomes / 2, np.full(2000, -0.5))
    np.testing.assert_allclose(interval, bootstrapped, atol=0.002)


def test_win_rate_mirrors_and_all_ties_are_uncertain():
    interval, mirrored = win_rate(outcomes_of(9, 4, 2)), win_rate(outcomes_of(2, 4, 9))
    mirror = [1 - mirrored.estimate, 1 - mirrored.high, 1 - mirrored.low]
    np.testing.assert_allclose(interval, mirror, atol=1e-12)
    tied = win_rate(outcomes_of(0, 20, 0))
    assert tied.estimate == 0.5 and tied.low < 0.45 and tied.high > 0.55


# Coverage

COVERED = [
    *[("paired_bootstrap", f"n=64, {law}", 1000) for law in ("normal", "gamma, skewness 1.4")],
    ("paired_bootstrap", "n=64, Student t of 3, heavy tails", 1000),
    ("paired_bootstrap", "n=16, normal", 2000),
    ("pairwise_agreement", "n=64, ties=count", 1000),
    ("pairwise_agreement", "n=64, ties=drop", 1000),
    ("wilson", "n=20, shares 50 to 95 %", 4000),
    ("wilson", "n=400, shares 50 to 95 %", 4000),
    *[("win_rate", f"n=64, {ties} % ties", 4000) for ties in (0, 30, 50, 80)],
]


@pytest.mark.parametrize("interval, setting, num_studies", COVERED)
@pytest.mark.slow
def test_coverage(interval, setting, num_studies):
    assert 0.93 <= coverage(STUDIES[interval, setting], num_studies, seed=1) <= 0.97


def test_coverage_counts_studies_that_hold_the_truth():
    def one_deviation(rng):
        value = rng.normal()
        return Interval(value, value - 1, value + 1), 0.0

    assert coverage(one_deviation, 10_000) == pytest.approx(0.6827, abs=0.015)


def test_coverage_command(capsys):
    assert main(["--studies", "1"]) == 0
    table = capsys.readouterr().out
    assert all(table.count(setting) and table.count(interval) for interval, setting in STUDIES)
    assert main(["--studies", "0"]) == 2
    assert "studies 0" in capsys.readouterr().err


# Agreement


def coincidence_alpha(ratings, level) -> float:
    """Alpha from the definition: one minus observed over expected disagreement of coincidences."""
    coincidences = defaultdict(float)
    for unit in np.transpose(ratings):
        given = [value for value in unit if not np.isnan(value)]
        for one, other in itertools.permutations(range(len(given)), 2):
            coincidences[given[one], given[other]] += 1 / (len(given) - 1)
    totals = Counter()
    for (one, _), count in coincidences.items():
        totals[one] += count

    def disagreement(one, other):
        if level == "nominal":
            return float(one != other)
        if level == "ordinal":
            between = sum(n for value, n in totals.items() if min(one, other) <= value <= max(one, other))
            return (between - (totals[one] + totals[other]) / 2) ** 2
        return (one - other) ** 2 / (1 if level == "interval" else max(one + other, 1e-9) ** 2)

    observed = sum(count * disagreement(*pair) for pair, count in coincidences.items())
    expected = sum(totals[a] * totals[b] * disagreement(a, b) for a, b in itertools.product(totals, totals))
    return 1 - (sum(totals.values()) - 1) * observed / expected


@pytest.mark.parametrize(
    "level, alpha", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_published(level, alpha):
    assert krippendorff_alpha(EXAMPLE_C, level) == pytest.approx(alpha, abs=5e-4)
    assert coincidence_alpha(EXAMPLE_C, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_of_agreement_chance_and_opposition():
    values = np.random.default_rng(0).integers(5, size=(2, 20_000))
    assert krippendorff_alpha(values[[0, 0]], "interval") == 1
    assert krippendorff_alpha(values, "interval") == pytest.approx(0, abs=0.03)
    assert krippendorff_alpha([[0, 1] * 50, [1, 0] * 50]) == pytest.approx(-1, abs=0.02)


def test_alpha_ignores_units_rated_once():
    lone = np.array([[9.0], [NAN], [NAN], [NAN]])  # a value that no second rating can be compared with
    assert krippendorff_alpha(np.hstack([EXAMPLE_C, lone]), "ordinal") == krippendorff_alpha(EXAMPLE_C, "ordinal")


def test_alpha_interval_narrows_with_more_units():
    few, many = alpha_interval(EXAMPLE_C, "ordinal"), alpha_interval(np.tile(EXAMPLE_C, 16), "ordinal")
    assert few.low < few.estimate < few.high <= 1 and few.estimate == krippendorff_alpha(EXAMPLE_C, "ordinal")
    assert 3.5 < (few.high - few.low) / (many.high - many.low) < 6  # 16 times the units: about a quarter


def test_alpha_interval_with_one_deviating_unit_admits_no_reliability():
    ratings = np.ones((2, 12))
    ratings[:, 0] = 2
    interval = alpha_interval(ratings)
    assert interval == Interval(1, 0, 1)


@pytest.mark.parametrize("ties", ["count", "drop"])
def test_pairwise_agreement_counts_triples(ties):
    rng = np.random.default_rng(0)
    verdicts = rng.choice([1, 0, -1, NAN], size=(4, 60))
    triples = []
    for one, other in itertools.combinations(verdicts, 2):
        compared = ~np.isnan(one) & ~np.isnan(other)
        if ties == "drop":
            compared &= (one != 0) & (other != 0)
        triples += [*(one[compared] == other[compared])]
    interval = pairwise_agreement(verdicts, ties)
    assert interval.estimate == pytest.approx(np.mean(triples), abs=1e-12)
    assert interval.low < interval.estimate < interval.high


def test_majority():
    verdicts = [[1, -1, 0, 1, NAN], [1, 1, 0, 0, -1], [-1, NAN, NAN, 0, NAN]]
    np.testing.assert_array_equal(majority(verdicts), [1, 0, 0, 1, -1])


# Human labels


@pytest.fixture(scope="module")
def geneval(test_data):
    """Answers of the five annotators of each image: column -> [raters, images], NaN for none."""
    with open(test_data / "geneval" / "annotations_sdv2.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["Input.prompt_id"], row["Input.image_id"]))

    def column(name):
        return np.array([float(row[name] or "nan") for row in rows]).reshape(400, 5).T

    return column


@pytest.mark.parametrize(
    "column, level, low, high",
    [
        ("Answer.task-quality", "ordinal", 0.31, 0.33),  # four grades, known to be noisy
        ("Answer.task-quality", "interval", 0.31, 0.33),
        ("Answer.task-count-0", "ratio", 0.66, 0.68),  # zero objects is an answer
        ("Answer.task-count-1", "nominal", 0.56, 0.58),  # asked for two-object prompts only
        ("Answer.task-real-0", "ordinal", 0.15, 0.16),  # not answered where the object is missing
    ],
)
def test_alpha_of_geneval_annotators(geneval, column, level, low, high):
    ratings = geneval(column)
    alpha = krippendorff_alpha(ratings, level)
    assert low < alpha < high
    assert alpha == pytest.approx(coincidence_alpha(ratings, level), abs=1e-9)
    interval = alpha_interval(ratings, level, num_resamples=200)
    assert low - 0.15 < interval.low < alpha < interval.high < high + 0.15


def test_agreement_of_geneval_annotators(geneval):
    """Whether the object is there: agreement and nominal alpha tell the same, and five votes never tie."""
    verdicts = np.where(geneval("Answer.task-count-0") > 0, 1, -1)
    agreement = pairwise_agreement(verdicts)
    present, absent = np.sum(verdicts > 0), np.sum(verdicts < 0)
    chance = 1 - 2 * present * absent / (2000 * 1999)
    alpha = krippendorff_alpha(verdicts)
    assert (present, absent) == (1795, 205)
    assert agreement.estimate == pytest.approx(chance + alpha * (1 - chance), abs=1e-9)
    np.testing.assert_array_equal(majority(verdicts) > 0, np.sum(verdicts > 0, axis=0) >= 3)


def test_geneval_images_of_one_prompt_are_alike(geneval):
    """First against last image of 100 prompts: drawn alike, so the interval of their quality holds 0."""
    quality = geneval("Answer.task-quality").mean(axis=0).reshape(100, 4)
    interval = paired_bootstrap(quality[:, 0], quality[:, 3])
    assert interval.low < 0 < interval.high and interval.high - interval.low < 0.4


@pytest.fixture(scope="module")
def rankings(test_data):
    """ImageReward's ranks of the images of each prompt, 1 is best, equal ranks tie."""
    prompts = json.loads((test_data / "imagereward" / "test.json").read_text())
    return [np.array(prompt["ranking"]) for prompt in prompts]


def test_imagereward_lists_better_images_first(rankings):
    """The lists are not shuffled: the first image beats the second, and by how much is stated."""
    outcomes = np.array([np.sign(ranking[1] - ranking[0]) for ranking in rankings])
    assert Counter(outcomes.tolist()) == {1: 249, 0: 61, -1: 156}
    interval, decided = win_rate(outcomes), wilson(249, 249 + 156)
    assert interval.estimate == (249 + 61 / 2) / 466
    assert 0.55 < interval.low < 0.57 and 0.63 < interval.high < 0.65
    assert interval.high - interval.low < decided.high - decided.low  # ties are information on the rate


def test_win_rate_of_shuffled_imagereward_lists_holds_one_half(rankings):
    outcomes = np.array([np.sign(ranking[1] - ranking[0]) for ranking in rankings])

    def shuffled(rng):
        return win_rate(outcomes * rng.choice([-1, 1], size=outcomes.size)), 0.5

    assert 0.93 <= coverage(shuffled, 2000) <= 0.97


def test_agreement_with_imagereward_rankings(rankings):
    """Ranks as verdicts per pair of images, against a rater that always prefers the first."""
    verdicts = np.concatenate([np.sign([b - a for a, b in itertools.combinations(ranking, 2)]) for ranking in rankings])
    assert (verdicts.size, np.sum(verdicts == 0)) == (7230, 831)
    first = np.ones_like(verdicts)
    wins = int(np.sum(verdicts == 1))
    assert pairwise_agreement([verdicts, first]).estimate == wins / 7230
    assert pairwise_agreement([verdicts, first], ties="drop").estimate == wins / (7230 - 831)
    np.testing.assert_array_equal(majority([verdicts, verdicts, first])[verdicts != 0], verdicts[verdicts != 0])


# Bad input

BAD_INPUT = {
    "lengths": (lambda: paired_bootstrap([1, 2, 3], [1, 2]), "3 treated and 2 baseline", "same units"),
    "groups": (lambda: paired_share([1, 0], [1, 1], ["a"]), "2, 2 verdicts and 1 groups", "as many"),
    "one group": (lambda: paired_share([1, 0], [1, 1], ["a", "a"]), "1 usable units", "collect more"),
    "empty scores": (lambda: paired_bootstrap([], []), "treated of shape (0,)", "fill"),
    "table of scores": (lambda: paired_bootstrap(np.ones((2, 2)), [1, 2]), "shape (2, 2)", "reshape"),
    "NaN": (lambda: paired_bootstrap([1, NAN], [1, 2]), "nan in treated", "drop these"),
    "infinity": (lambda: paired_bootstrap([1, 2], [1, np.inf]), "inf in baseline", "drop these"),
    "text": (lambda: paired_bootstrap(["good", "bad"], [1, 2]), "good", "numeric"),
    "one unit": (lambda: paired_bootstrap([1], [0]), "1 usable units", "collect more"),
    "confidence 1": (lambda: paired_bootstrap([1, 2], [1, 3], 1.0), "confidence 1.0", "e.g. 0.95"),
    "confidence 95": (lambda: wilson(1, 2, 95), "confidence 95", "e.g. 0.95"),
    "confidence text": (lambda: win_rate([1, 0], "high"), "confidence 'high'", "e.g. 0.95"),
    "confidence NaN": (lambda: win_rate([1, 0], NAN), "confidence nan", "e.g. 0.95"),
    "seed": (lambda: paired_bootstrap([1, 2], [1, 3], seed=0.5), "seed 0.5", "give one"),
    "no seed": (lambda: paired_bootstrap([1, 2], [1, 3], seed=None), "seed None", "give one"),
    "resamples": (lambda: paired_bootstrap([1, 2], [1, 3], num_resamples=10), "num_resamples 10", "give one"),
    "successes": (lambda: wilson(5, 4), "5 successes of 4", "recount"),
    "negative": (lambda: wilson(-1, 4), "successes -1", "give one"),
    "fraction": (lambda: wilson(0.5, 4), "successes 0.5", "give one"),
    "no trial": (lambda: wilson(0, 0), "total 0", "give one"),
    "no outcome": (lambda: win_rate([]), "outcomes of shape (0,)", "fill"),
    "missing outcome": (lambda: win_rate([1, NAN]), "nan in outcomes", "drop these"),
    "score": (lambda: win_rate([1, 0.3]), "0.3 in outcomes", "signs"),
    "booleans": (lambda: win_rate([True, False]), "booleans in outcomes", "-1"),
    "level": (lambda: krippendorff_alpha(EXAMPLE_C, "ordnal"), "'ordnal'", "did you mean 'ordinal'"),
    "one rater": (lambda: krippendorff_alpha([[1, 2, 3]]), "no unit with two ratings", "rated twice"),
    "no overlap": (lambda: krippendorff_alpha([[1, NAN], [NAN, 1]]), "no unit with two", "rated twice"),
    "one value": (lambda: krippendorff_alpha([[3, 3, 1], [3, 3, NAN]]), "3 in all ratings", "varied units"),
    "ratio": (lambda: krippendorff_alpha([[1, -2], [1, 2]], "ratio"), "rating -2", "'interval'"),
    "ragged": (lambda: krippendorff_alpha([[1, 2], [1]]), "[[1, 2], [1]]", "rectangular"),
    "infinite rating": (lambda: krippendorff_alpha([[1, 2], [1, np.inf]]), "inf in ratings", "drop these"),
    "many values": (lambda: alpha_interval(np.arange(2000.0).reshape(2, -1)), "2000 different", "round"),
    "alpha's units": (lambda: alpha_interval([[1], [2]]), "1 usable units", "collect more"),
    "ties": (lambda: pairwise_agreement([[1, 1], [1, 1]], "dropp"), "'dropp'", "did you mean 'drop'"),
    "verdict": (lambda: pairwise_agreement([[1, 2], [1, 1]]), "2 in verdicts", "signs"),
    "pairs": (lambda: pairwise_agreement([[1, 1], [1, 0]], "drop"), "1 usable units", "collect more"),
    "pair unseen": (lambda: majority([[1, NAN], [1, NAN]]), "no verdict on pair 1", "leave it out"),
    "verdict list": (lambda: majority([1, 0]), "verdicts of shape (2,)", "reshape"),
}


@pytest.mark.parametrize("call, value, remedy", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(call, value, remedy):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert value in message.split(": ", 1)[0]
    assert remedy in message.rsplit("; ", 1)[1] and "\n" not in message


def test_calibration_error():
    """By hand, in two parts: sure of 0.6 and right half the time, sure of 0.9 and right each time."""
    found = calibration_error([0.9, 0.6, 0.9, 0.6], [1, 0, 1, 1], parts=2)
    assert found == pytest.approx((0.1 + 0.1) / 2)
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    honest = rng.uniform(size=confidence.size) < confidence
    assert calibration_error(confidence, honest) < 0.02
    assert calibration_error(confidence, np.full(confidence.size, 0.5)) == pytest.approx(0.25, abs=0.01)
    for bad, message in (([0.5], "same trials"), ([0.5, 1.5], "share")):
        with pytest.raises(InputError, match=message):
            calibration_error(bad, [1, 0])
