"""Estimates with confidence intervals; `narrative_jax.study.coverage` measures how often they hold."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from narrative_jax.core.errors import InputError, check_count


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, in the estimate's unit."""

    estimate: float
    low: float
    high: float


def paired_bootstrap(treated, baseline, confidence=0.95, num_resamples=2000, seed=0) -> Interval:
    """Mean of `treated - baseline` [units], in the scores' unit, resampling units.

    Units are independent, entry i of both is the same unit: average the pictures of one prompt first.
    Raises InputError for empty, unequal or non-finite scores, fewer than two units and bad options.
    """
    treated = as_numbers("treated", treated, ("units",))
    baseline = as_numbers("baseline", baseline, ("units",))
    if treated.size != baseline.size:
        given = f"{treated.size} treated and {baseline.size} baseline scores"
        raise InputError(given, "pairs have one score of each", "score the same units in both")
    differences = treated - baseline

    def mean(units):
        return differences[units].mean(axis=-1)

    return bootstrap(mean, differences.size, confidence, num_resamples, seed)


def paired_share(one, other, groups, confidence=0.95, num_resamples=2000, seed=0) -> Interval:
    """Share of trials where `one` is right less that where `other` is, resampling whole groups; 0 to 1 each, [trials].

    `groups` [trials] says which trials hang together, e.g. pairs of pictures of one scene. Raises InputError for
    unequal lengths, fewer than two groups and bad options.
    """
    one, other = (as_numbers(name, each, ("trials",)) for name, each in (("one", one), ("other", other)))
    groups = np.unique(groups, return_inverse=True)[1]
    if not len(one) == len(other) == len(groups):
        given = f"{len(one)}, {len(other)} verdicts and {len(groups)} groups"
        raise InputError(given, "they are of the same trials", "give each as many")
    ahead, trials = np.bincount(groups, one - other), np.bincount(groups)

    def share(units):
        return ahead[units].sum(-1) / trials[units].sum(-1)

    return bootstrap(share, len(trials), confidence, num_resamples, seed)


def bootstrap(statistic: Callable, num_units, confidence, num_resamples, seed) -> Interval:
    """Expanded percentile bootstrap of `statistic`, which maps indices of units [..., units] to values [...].

    Percentiles at Φ(±t √(n/(n-1))), t with n-1 degrees of freedom (Hesterberg 2015, "What teachers should
    know about the bootstrap"). Chosen by coverage: plain percentiles and BCa (Efron 1987) are too narrow up
    to 64 units, BCa also for heavy tails, and it is undefined where all units are equal (here: a point).
    Raises InputError for fewer than two units and bad options.
    """
    check_confidence(confidence)
    check_count("num_resamples", num_resamples, minimum=100)
    check_count("seed", seed)
    if num_units < 2:
        raise InputError(f"{num_units} usable units", "a bootstrap resamples two or more", "collect more")
    quantile = stats.t.ppf((1 + confidence) / 2, num_units - 1) * np.sqrt(num_units / (num_units - 1))
    units = np.arange(num_units)
    ends = stats.bootstrap(
        (units,),
        lambda drawn, axis: statistic(drawn),
        n_resamples=num_resamples,
        batch=max(1, 10**7 // num_units),  # all resamples at once take gigabytes at 100,000 units
        vectorized=True,
        confidence_level=1 - 2 * stats.norm.cdf(-quantile),
        method="percentile",
        rng=seed,
    ).confidence_interval
    return Interval(float(statistic(units)), float(ends.low), float(ends.high))


def wilson(successes: int, total: int, confidence=0.95) -> Interval:
    """Share of `successes` among `total` independent trials, with the score interval (Wilson 1927).

    Raises InputError unless 0 ≤ successes ≤ total, total ≥ 1, both integers, and confidence is in (0, 1).
    """
    check_count("successes", successes)
    check_count("total", total, minimum=1)
    check_confidence(confidence)
    if successes > total:
        raise InputError(f"{successes} successes of {total}", "successes ≤ total", "swap or recount them")
    ends = stats.binomtest(int(successes), int(total)).proportion_ci(confidence, method="wilson")
    return Interval(float(successes / total), float(ends.low), float(ends.high))


def win_rate(outcomes, confidence=0.95) -> Interval:
    """Share of wins plus half the share of ties; `outcomes` [prompts] are +1 win, 0 tie, -1 loss.

    Wilson's |p̂ - p| = z √(v/n) with the variance of half points, v = p(1-p) - ties/4; without ties it is
    `wilson`. The tie share is taken as ties/(n+2), since few decided prompts would give a false precision
    (all ties: a point). Measured at n = 64: 94 to 96 % up to half ties, more above.
    Raises InputError for empty outcomes, other values, booleans, and confidence outside (0, 1).
    """
    outcomes = as_verdicts("outcomes", outcomes, ("prompts",))
    check_confidence(confidence)
    rate = (outcomes.mean() + 1) / 2
    ties = np.sum(outcomes == 0) / (outcomes.size + 2)
    spread = stats.norm.ppf((1 + confidence) / 2) ** 2 / outcomes.size
    centre = (rate + spread / 2) / (1 + spread)
    half = np.sqrt(spread * (rate * (1 - rate) - ties / 4) + spread**2 * (1 - ties) / 4) / (1 + spread)
    return Interval(float(rate), float(max(0, centre - half)), float(min(1, centre + half)))


def check_confidence(confidence) -> None:
    """Raise InputError unless 0 < confidence < 1."""
    if not (isinstance(confidence, float | np.floating) and 0 < confidence < 1):
        raise InputError(f"confidence {confidence!r}", "a confidence is in (0, 1)", "give one, e.g. 0.95")


def as_numbers(kind: str, values, axes: tuple[str, ...], missing=False) -> np.ndarray:
    """`values` as float64 with `axes`; raises InputError unless finite, or NaN where `missing`."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        given = f"{kind} {str(values)[:40]!r}"
        raise InputError(given, "an array of numbers is needed", "make it rectangular, numeric") from None
    if numbers.ndim != len(axes) or not numbers.size:
        rule = f"a non-empty array [{', '.join(axes)}] is needed"
        raise InputError(f"{kind} of shape {numbers.shape}", rule, "reshape or fill it")
    bad = numbers[np.isinf(numbers) if missing else ~np.isfinite(numbers)]
    if bad.size:
        rule = "finite numbers or NaN are needed" if missing else "finite numbers are needed"
        raise InputError(f"{bad.size} × {bad[0]} in {kind}", rule, "drop these entries")
    return numbers


def as_verdicts(kind: str, values, axes: tuple[str, ...], missing=False) -> np.ndarray:
    """As `as_numbers`, for +1, 0 and -1; raises InputError for other values and for booleans."""
    if np.asarray(values).dtype == bool:  # False would pass for a tie
        raise InputError(f"booleans in {kind}", "+1, 0 and -1 are known", "write a loss as -1")
    verdicts = as_numbers(kind, values, axes, missing)
    wrong = verdicts[~np.isin(verdicts, (-1, 0, 1)) & ~np.isnan(verdicts)]
    if wrong.size:
        raise InputError(f"{wrong[0]:g} in {kind}", "+1, 0 and -1 are known", "take the differences' signs")
    return verdicts
