"""How far raters agree: Krippendorff's alpha on ratings, shares of equal verdicts on pairs."""

import krippendorff
import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.statistics.intervals import Interval, as_numbers, as_verdicts, bootstrap

LEVELS = ("nominal", "ordinal", "interval", "ratio")
MAX_COINCIDENCES = 10**8  # the package holds units × values² floats, several times over


def krippendorff_alpha(ratings, level="nominal") -> float:
    """Alpha of `ratings` [raters, units], NaN for missing: 1 is full agreement, 0 that of chance.

    Krippendorff 2011, "Computing Krippendorff's alpha-reliability". Raises InputError for an unknown level,
    ratings that leave nothing to compare, and negative ratings at level "ratio".
    """
    return _alpha(*_value_counts(ratings, level), level)


def alpha_interval(ratings, level="nominal", confidence=0.95, num_resamples=2000, seed=0) -> Interval:
    """`krippendorff_alpha`, resampling units (Zapf et al. 2016, doi:10.1186/s12874-016-0200-9).

    Raises InputError as `krippendorff_alpha` and `paired_bootstrap` do.
    """
    counts, values = _value_counts(ratings, level)

    def alphas(units):
        return np.apply_along_axis(lambda drawn: _alpha(counts[drawn], values, level), -1, units)

    return bootstrap(alphas, len(counts), confidence, num_resamples, seed)


def pairwise_agreement(verdicts, ties="count", confidence=0.95, num_resamples=2000, seed=0) -> Interval:
    """Share of (rater, rater, pair) triples with equal verdicts, resampling pairs.

    `verdicts` [raters, pairs] are +1, 0 (tie) or -1, NaN for missing; ties="drop" takes ties for missing.
    Raises InputError for other values, unless two pairs have two verdicts each, and for bad options.
    """
    verdicts = as_verdicts("verdicts", verdicts, ("raters", "pairs"), missing=True)
    check_name("ties", ties, ("count", "drop"))
    kinds = (-1, 0, 1) if ties == "count" else (-1, 1)
    votes = np.stack([np.sum(verdicts == kind, axis=0) for kind in kinds])
    equal = np.sum(votes * (votes - 1), axis=0)
    compared = votes.sum(axis=0) * (votes.sum(axis=0) - 1)
    equal, compared = equal[compared > 0], compared[compared > 0]

    def share(pairs):
        return equal[pairs].sum(axis=-1) / compared[pairs].sum(axis=-1)

    return bootstrap(share, equal.size, confidence, num_resamples, seed)


def majority(verdicts) -> np.ndarray:
    """Sign of the sum of `verdicts` [raters, pairs], as int [pairs]: +1, 0 (tie) or -1; NaN for missing.

    Raises InputError for other values and for a pair without any verdict.
    """
    verdicts = as_verdicts("verdicts", verdicts, ("raters", "pairs"), missing=True)
    unseen = np.flatnonzero(np.isnan(verdicts).all(axis=0))
    if unseen.size:
        raise InputError(f"no verdict on pair {unseen[0]}", "a majority needs a verdict", "leave it out")
    return np.sign(np.nansum(verdicts, axis=0)).astype(int)


def _value_counts(ratings, level) -> tuple[np.ndarray, np.ndarray]:
    """How often each unit with two or more ratings got each value [units, values], and the values, sorted."""
    check_name("level", level, LEVELS)
    ratings = as_numbers("ratings", ratings, ("raters", "units"), missing=True)
    ratings = ratings[:, np.sum(~np.isnan(ratings), axis=0) > 1]
    values = np.unique(ratings[~np.isnan(ratings)])
    if not values.size:
        raise InputError("no unit with two ratings", "alpha compares raters", "have units rated twice")
    if values.size == 1:
        raise InputError(f"{values[0]:g} in all ratings", "alpha needs two values", "rate more varied units")
    if level == "ratio" and values[0] < 0:
        raise InputError(f"rating {values[0]:g}", "level 'ratio' needs ratings ≥ 0", "use level 'interval'")
    if ratings.shape[1] * values.size**2 > MAX_COINCIDENCES:
        given = f"{values.size} different ratings of {ratings.shape[1]} units"
        raise InputError(given, f"units × values² ≤ {MAX_COINCIDENCES}", "round the ratings, e.g. to 0.1")
    return np.sum(ratings[..., None] == values, axis=0), values


def _alpha(counts: np.ndarray, values: np.ndarray, level: str) -> float:
    """Alpha from the `counts` [units, values] of each value."""
    if np.count_nonzero(counts.sum(axis=0)) < 2:
        return 0.0  # a resample of a single value is no evidence of reliability
    return float(krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement=level))


def calibration_error(confidence, right, parts=10) -> float:
    """How far being sure lies from being right, 0 to 1: of [trials], the confidence in 0 to 1 and whether it was right.

    The mean over trials, in `parts` of equally many by confidence, of the distance between its mean confidence and its
    share of right ones (expected calibration error, Naeini et al. 2015; Guo et al. 2017). A half in `right` is a tie.
    Of few trials it is large by chance alone: see `calibration_by_chance`.
    Raises InputError for unequal lengths and values outside 0 to 1.
    """
    confidence, right = as_numbers("confidence", confidence, ("trials",)), as_numbers("right", right, ("trials",))
    if len(confidence) != len(right):
        raise InputError(f"{len(confidence)} and {len(right)} trials", "they are of the same trials", "give as many")
    for name, values in (("confidence", confidence), ("right", right)):
        if outside := values[(values < 0) | (values > 1)].tolist():
            raise InputError(f"{outside[0]:g} in {name}", "it is a share", "give 0 to 1")
    check_count("parts", parts, minimum=1)
    return float(_gaps(confidence, right[None], parts)[0])


def calibration_by_chance(confidence, parts=10, draws=200, seed=0) -> float:
    """The `calibration_error` that one expects of so many trials [trials] where being sure is exactly being right."""
    confidence = as_numbers("confidence", confidence, ("trials",))
    right = np.random.default_rng(seed).uniform(size=(draws, len(confidence))) < confidence
    return float(_gaps(confidence, right, parts).mean())


def _gaps(confidence, right, parts):
    """f64[draws] of `right` [draws, trials]."""
    order = np.argsort(confidence, kind="stable")
    found = [rows for rows in np.array_split(order, parts) if len(rows)]
    return sum(len(rows) * abs(confidence[rows].mean() - right[:, rows].mean(1)) for rows in found) / len(order)
