"""Arms of an experiment, which drew the same scenes from the same noise, beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from narrative_jax.statistics.intervals import Interval, bootstrap, paired_bootstrap, win_rate

GIVEN_PRESENCE = "given_presence"  # the scenes in which both arms of a comparison show everybody
FEWEST = 30  # scenes of a group: fewer say too little to be compared


@dataclass(frozen=True)
class Judged:
    """What was found in an arm's pictures, scene by scene: `values` f64[scenes, measures], and `complete`
    bool[scenes], whether all pictures of a scene show everybody; None where nobody knows.
    """

    values: np.ndarray
    complete: np.ndarray | None = None


def compare(
    arms: Mapping[str, Judged], columns: Mapping[str, Sequence[str]], kind: str, groups: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Means and paired differences of every arm, by aspect and criterion, and again in each group of scenes.

    `columns` gives each aspect its criteria, `groups` says bool[scenes] which scenes belong to each; how many of them
    are compared is <group>/scenes, and where these are less than FEWEST there is nothing else.
    """
    numbers = {}
    found = [name for name in arms if name not in ("baseline", "ceiling")]
    for position, arm in enumerate(found):
        prefix = kind if position == 0 else f"{kind}/{arm}"
        for key, rows in _parts(prefix, groups, arms["baseline"], arms[arm], numbers):
            values = {name: arms[name].values[rows] for name in ("baseline", arm, "ceiling") if name in arms}
            numbers |= _changes(key, values["baseline"], values[arm], values.get("ceiling"), columns)
    if not found:
        for name, column in _measures(columns):
            numbers |= {f"{kind}/{name}/{arm}": each.values[:, column].mean() for arm, each in arms.items()}
    return numbers


def between(
    arms: Mapping[str, Judged],
    pairs: Sequence[tuple[str, str]],
    columns: Mapping[str, Sequence[str]],
    kind: str,
    groups: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Paired differences between the two arms of each pair, by aspect, and for gold of the mean of aspects; groups as
    `compare` has them.

    An arm that had nothing to train on has no values: its pairs are left out.
    """
    numbers = {}
    for pair in pairs:
        if not all(arm in arms for arm in pair):
            continue
        one, other = (arms[arm] for arm in pair)
        for key, rows in _parts(f"{kind}/{'_over_'.join(pair)}", groups, one, other, numbers):
            after, before = (aspect_values(each.values[rows], columns) for each in (one, other))
            for place, name in enumerate(columns):
                numbers |= _difference(f"{key}/{name}", after[:, place], before[:, place])
            if kind == "gold":  # a reward's aspects have scales of their own
                numbers |= _difference(f"{key}/mean_of_aspects", after.mean(1), before.mean(1))
    return numbers


def wins(arms: Mapping[str, Judged], kind: str) -> dict[str, float]:
    """How often each arm's mean over measures, in deviations of the baseline's, is above the baseline's:
    <kind>/<arm>/win_rate{,_low,_high}.
    """
    base, numbers = arms["baseline"].values, {}
    spread = np.maximum(base.std(0), 1e-6)
    for arm, each in arms.items():
        if arm != "baseline":
            found = win_rate(np.sign(((each.values - base) / spread).mean(1).round(9)))
            ends = zip(("", "_low", "_high"), found, strict=True)
            numbers |= {f"{kind}/{arm}/win_rate{end}": value for end, value in ends}
    return numbers


def _parts(prefix, groups, one, other, numbers) -> Iterator[tuple[str, np.ndarray]]:
    """Key and scenes of all scenes together and of each group that is large enough; notes how large each is."""
    yield prefix, np.ones(len(one.values), bool)
    if one.complete is not None and other.complete is not None:
        groups = {GIVEN_PRESENCE: one.complete & other.complete, **groups}
    for name, rows in groups.items():
        numbers[f"{prefix}/{name}/scenes"] = int(rows.sum())
        if rows.sum() >= FEWEST:
            yield f"{prefix}/{name}", rows


def _changes(prefix, before, after, ceiling, columns):
    """Means and differences; where there is a ceiling, of the mean of aspects too, and the share of the gap closed."""
    numbers = {}
    for name, column in _measures(columns):
        key = f"{prefix}/{name}"
        numbers |= {f"{key}/baseline": before[:, column].mean(), f"{key}/aligned": after[:, column].mean()}
        numbers |= _difference(key, after[:, column], before[:, column])
        if ceiling is not None:
            numbers[f"{key}/ceiling"] = ceiling[:, column].mean()
    if ceiling is not None:
        before, after, ceiling = (aspect_values(each, columns) for each in (before, after, ceiling))
        numbers |= _difference(f"{prefix}/mean_of_aspects", after.mean(1), before.mean(1))
        closed = _closed(before, after, ceiling)
        keys = ("gap_closed", "gap_closed_low", "gap_closed_high")
        numbers |= {f"{prefix}/{key}": value for key, value in zip(keys, closed, strict=True)}
    return numbers


def _closed(before, after, ceiling) -> Interval:
    """The share of the distance from baseline to ceiling, mean over aspects, of f64[scenes, aspects] each."""

    def share(units):
        gained, missing = (each[units].mean(-2) for each in (after - before, ceiling - before))
        return (gained / missing).mean(-1)

    return bootstrap(share, len(before), confidence=0.95, num_resamples=2000, seed=0)


def _difference(key, after, before):
    """The mean difference between the values of the same scenes, and its interval."""
    found = paired_bootstrap(after, before)
    return {f"{key}/diff": found.estimate, f"{key}/diff_low": found.low, f"{key}/diff_high": found.high}


def aspect_values(values: np.ndarray, columns: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The aspects among the measures, f64[scenes, aspects]: they stand behind all criteria."""
    return values[:, sum(map(len, columns.values())) :]


def _measures(columns) -> Iterator[tuple[str, int]]:
    """Name and column of every aspect and its criteria."""
    criteria, place = sum(map(len, columns.values())), 0
    for position, (aspect, names) in enumerate(columns.items()):
        yield aspect, criteria + position
        for criterion in names:
            yield f"{aspect}/{criterion}", place
            place += 1
