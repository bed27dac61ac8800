"""Arms of an experiment, which drew the same scenes from the same noise, beside each other."""

import numpy as np

from narrative_jax.statistics.intervals import paired_bootstrap


def compare(values, columns, kind) -> dict[str, float]:
    """Means and paired differences of every arm, by aspect and criterion."""
    numbers = {}
    arms = [name for name in values if name not in ("baseline", "ceiling")]
    for position, arm in enumerate(arms):
        prefix = kind if position == 0 else f"{kind}/{arm}"
        closed = []
        for name, get in _measures(columns):
            before, after = get(values["baseline"]), get(values[arm])
            key = f"{prefix}/{name}"
            numbers |= {f"{key}/baseline": before.mean(), f"{key}/aligned": after.mean()}
            numbers |= _difference(key, after, before)
            if "ceiling" in values:
                ceiling = get(values["ceiling"]).mean()
                numbers[f"{key}/ceiling"] = ceiling
                if name in columns:
                    closed.append(numbers[f"{key}/diff"] / (ceiling - before.mean()))
        if closed:
            numbers[f"{prefix}/gap_closed"] = float(np.mean(closed))
    if not arms:
        for name, get in _measures(columns):
            numbers |= {f"{kind}/{name}/{arm}": get(rows).mean() for arm, rows in values.items()}
    return numbers


def between(values, pairs, columns, kind) -> dict[str, float]:
    """Paired differences between the two arms of each pair, by aspect, and for gold of the mean of aspects.

    An arm that had nothing to train on has no values: its pairs are left out.
    """
    numbers = {}
    aspects = [(name, get) for name, get in _measures(columns) if name in columns]
    for pair in pairs:
        if not all(arm in values for arm in pair):
            continue
        key = f"{kind}/{'_over_'.join(pair)}"
        for name, get in aspects:
            numbers |= _difference(f"{key}/{name}", *(get(values[arm]) for arm in pair))
        if kind == "gold":  # a reward's aspects have scales of their own
            means = (np.mean([get(values[arm]) for _, get in aspects], axis=0) for arm in pair)
            numbers |= _difference(f"{key}/mean_of_aspects", *means)
    return numbers


def _difference(key, after, before):
    """The mean difference between the values of the same scenes, and its interval."""
    found = paired_bootstrap(after, before)
    return {f"{key}/diff": found.estimate, f"{key}/diff_low": found.low, f"{key}/diff_high": found.high}


def _measures(columns):
    """(name, values[n, criteria] -> values[n]) of every aspect and criterion."""
    place = 0
    for aspect, criteria in columns.items():
        width = max(1, len(criteria))
        yield aspect, lambda rows, at=place, to=place + width: rows[:, at:to].mean(1)
        for offset, criterion in enumerate(criteria):
            yield f"{aspect}/{criterion}", lambda rows, at=place + offset: rows[:, at]
        place += width
