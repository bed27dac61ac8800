"""Which pairs of candidates become preferences: selection on scores per aspect, in numpy.

ADPO's dominating comparison and rejection sampling, and the selectors that they are compared with.
"""

from dataclasses import dataclass, replace

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name


@dataclass(frozen=True)
class Pairs:
    """`chosen` and `rejected` i64[pairs] are rows of the scores, `gap` f64[pairs] the mean difference over aspects.

    `left` says how many pairs were left after each rule, in the order in which they were applied; first "all".
    """

    chosen: np.ndarray
    rejected: np.ndarray
    gap: np.ndarray
    left: dict[str, int]

    def __len__(self) -> int:
        return len(self.chosen)


def standardise(scores, mean, std) -> np.ndarray:
    """Scores f64[n, aspects] by the statistics of a calibration set; an aspect that never varied is only centred.

    Raises InputError where the number of aspects differs.
    """
    scores, mean, std = (np.asarray(values, np.float64) for values in (scores, mean, std))
    if not scores.shape[1:] == mean.shape == std.shape:
        given = f"calibration of {mean.size} means and {std.size} deviations"
        raise InputError(given, f"the scores have {scores.shape[1]} aspects", "calibrate the same reward")
    return (scores - mean) / np.where(std > 0, std, 1)


def select_pairs(scores, prompts, *, rule="dominance", thresholds=None, max_pairs_per_prompt=0) -> Pairs:
    """Pairs of rows of `scores` [n, aspects] that share their value in `prompts` [n], in the order of the rows.

    `rule` decides which row is preferred, if any:
    - "dominance": strictly better on every aspect (ADPO);
    - "pareto": nowhere worse and somewhere better (VisionReward's MPO): dominance, unless scores are on a coarse scale;
    - "majority": better on more aspects than worse (BalancedDPO);
    - "average": the higher mean;
    - "best_worst": the best against the worst of each prompt, by mean.
    `thresholds` [aspects]: the preferred row must lie above them on every aspect (rejection sampling); None: no such
    rule. `max_pairs_per_prompt`: only so many pairs of the largest gaps; 0: all. Raises InputError for an unknown rule
    and for scores that are no numbers.
    """
    scores, prompts = _check(scores, prompts, thresholds)
    check_name("rule", rule, RULES)
    check_count("max_pairs_per_prompt", max_pairs_per_prompt)
    first, second = _pairs_within(prompts)
    left = {"all": len(first)}

    verdict = RULES[rule](scores[first] - scores[second])
    if rule == "best_worst":
        verdict = verdict * _extremes(scores.mean(1), prompts, first, second)
    chosen, rejected = np.where(verdict > 0, first, second), np.where(verdict > 0, second, first)
    chosen, rejected = chosen[verdict != 0], rejected[verdict != 0]
    left[rule] = len(chosen)

    if thresholds is not None:
        good = (scores[chosen] > np.asarray(thresholds)).all(1)
        chosen, rejected = chosen[good], rejected[good]
        left["rejection"] = len(chosen)

    gap = (scores[chosen] - scores[rejected]).mean(1)
    if max_pairs_per_prompt:
        kept = _rank(-gap, prompts[chosen]) < max_pairs_per_prompt
        chosen, rejected, gap = chosen[kept], rejected[kept], gap[kept]
        left["cap"] = len(chosen)

    order = np.lexsort((rejected, chosen))
    return Pairs(chosen[order], rejected[order], gap[order], left)


def shuffle_labels(pairs: Pairs, seed: int) -> Pairs:
    """The same pairs, each turned round with probability ½: a control that has all but the preference.

    The gaps stay as they are, so that the weights of the loss do, too.
    """
    turned = np.random.default_rng(seed).random(len(pairs)) < 0.5
    chosen, rejected = np.where(turned, (pairs.rejected, pairs.chosen), (pairs.chosen, pairs.rejected))
    return replace(pairs, chosen=chosen, rejected=rejected)


def draw_pairs(pairs: Pairs, count: int, seed: int) -> Pairs:
    """So many of the pairs, by lot, in their order: what other rules left is then as much to learn from."""
    kept = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:count])
    left = {**pairs.left, "lot": len(kept)}
    return Pairs(pairs.chosen[kept], pairs.rejected[kept], pairs.gap[kept], left)


# The verdict on differences of scores [pairs, aspects]: 1 where the first is preferred, -1 the second, 0 neither.
RULES = {
    "dominance": lambda d: (d > 0).all(1).astype(int) - (d < 0).all(1),
    "pareto": lambda d: np.sign(d.sum(1)) * ((d >= 0).all(1) | (d <= 0).all(1)),
    "majority": lambda d: np.sign(np.sign(d).sum(1)),
    "average": lambda d: np.sign(d.mean(1)),
    "best_worst": lambda d: np.sign(d.mean(1)),
}


def _check(scores, prompts, thresholds):
    scores, prompts = np.asarray(scores, np.float64), np.asarray(prompts)
    wrong = np.flatnonzero(~np.isfinite(scores).all(1))
    if wrong.size:
        given = f"scores {scores[wrong[0]].tolist()} of candidate {wrong[0]}"
        raise InputError(given, "scores are finite numbers", "look at the reward that gave them")
    if thresholds is not None and len(thresholds) != scores.shape[1]:
        rule = f"the scores have {scores.shape[1]} aspects"
        raise InputError(f"thresholds {tuple(thresholds)}", rule, "give one for each")
    return scores, np.unique(prompts, return_inverse=True)[1]


def _pairs_within(prompts):
    """All pairs (first, second) of rows of one prompt, first < second."""
    order = np.argsort(prompts, kind="stable")  # rows of one prompt stand side by side
    steps = range(1, np.bincount(prompts).max(initial=0))
    first = np.concatenate([order[:0], *(order[:-step] for step in steps)])
    second = np.concatenate([order[:0], *(order[step:] for step in steps)])
    same = prompts[first] == prompts[second]
    return first[same], second[same]


def _extremes(totals, prompts, first, second):
    """Whether a pair is the best and the worst row of its prompt; of equal rows the last is best, the first worst."""
    order = np.lexsort((totals, prompts))
    starts = np.searchsorted(prompts[order], prompts[first])
    ends = np.searchsorted(prompts[order], prompts[first], side="right") - 1
    worst, best = order[starts], order[ends]
    return ((first == worst) & (second == best)) | ((first == best) & (second == worst))


def _rank(keys, groups):
    """The place of each key among those of its group, ascending, from 0; of equal keys the first comes first."""
    order = np.lexsort((keys, groups))
    starts = np.searchsorted(groups[order], groups[order])
    ranks = np.empty(len(keys), int)
    ranks[order] = np.arange(len(keys)) - starts
    return ranks
