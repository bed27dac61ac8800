"""What a run found: as tables for a terminal or a page, and in plain words."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from narrative_jax.core.files import read_json
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.report.run import Run
from narrative_jax.rewards.ensemble import Ensemble, PerAspect
from narrative_jax.rewards.oracle import MOVED_BY_PRESENCE, Oracle, Presence
from narrative_jax.rewards.raters import Raters
from narrative_jax.runs.generator import GENERATOR
from narrative_jax.runs.rewards import TRAINED
from narrative_jax.runs.trained import training_of
from narrative_jax.statistics.comparison import FEWEST, GIVEN_PRESENCE

WIDTH = 100  # columns of a terminal
UP, DOWN, UNCLEAR = "▲", "▼", "·"  # what an interval says
MARKS = {UP: "up", DOWN: "down", UNCLEAR: "unclear"}  # as the page calls them
PAIRED = f"Differences are paired, with 95 % intervals; {UP}{DOWN}: 0 lies outside, {UNCLEAR}: 0 lies inside."
MEAN = "mean_of_aspects"
_DISTANCES = "fid, kid: distance to true pictures by features of that network, less is better."
NOBODY_IS_0 = "°"  # marks criteria that are 0 where nobody is
RATERS = "raters, who see the oracle's findings"
# Rewards that know the gold judge, and the head that ships, made by configs/reward.py.
INFORMED = {
    Raters.name: RATERS,
    Oracle.name: "the oracle, the judge itself",
    Presence.name: "the oracle, who says who is there",
}
STORYBOOK_HEAD = f"Storybook's aesthetic head, which learned from {RATERS}"


@dataclass(frozen=True)
class Table:
    """Cells as text; a first cell that begins with spaces is a part of the row above."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str

    def text(self) -> str:
        """The table in aligned columns, its caption below; columns beyond a terminal's width stand under the others."""
        names, *columns = zip(self.header, *self.rows, strict=True)
        names = [name.ljust(max(map(len, names))) for name in names]
        lines, parts = names, []
        for column in columns:
            width = max(map(len, column))
            if lines is not names and len(lines[0]) + 2 + width > WIDTH:
                parts.append(lines)
                lines = names
            lines = [f"{line}  {cell.rjust(width)}" for line, cell in zip(lines, column, strict=True)]
        text = "\n\n".join("\n".join(map(str.rstrip, part)) for part in (*parts, lines))
        return f"{text}\n\n{in_lines(self.caption)}"


def tables(run: Run) -> list[Table]:
    """The first arm by aspect and criterion; where there are several arms, also all of them by aspect."""
    if not run.judge:
        return []
    note = f"Means over {len(run.results['scenes'])} scenes."
    if not run.arms:
        columns = ("baseline", "ceiling") if run.gold else ("baseline",)
        rows = [(label, *[_number(run.numbers, f"{key}/{c}") for c in columns]) for label, key in _measures(run)]
        return [Table(("", *columns), rows, note)]
    note += f" {PAIRED}"
    if run.gold:
        note += " closed: the share of the distance from baseline to ceiling (true pictures)."
        note += f" {NOBODY_IS_0}: 0 where nobody is in the picture, so that it moves with presence alone."
    return [Table(*_by_aspect(run), note)] + [Table(*_by_arm(run), note)] * (len(run.arms) > 1)


def printed(run: Run) -> list[Table]:
    """What a terminal shows: the arms, those that are compared with each other, kinds of scenes, other measures."""
    return [*tables(run)[-1:], *comparisons(run), *by_group(run), *fidelity(run)]


def shown(run: Run) -> list[Table]:
    """What a page shows: also the criteria of the first arm where there are several, and how rewards agree."""
    return [*printed(run), *tables(run)[:-1], *agreement(run)]


def in_lines(text: str) -> str:
    """A paragraph in lines of a terminal's width."""
    return textwrap.fill(text, WIDTH)


def by_group(run: Run) -> list[Table]:
    """Of each group of scenes: the first arm by aspect, and where there are more arms all of them in one number."""
    if not run.groups or not run.arms:
        return []
    count = {group: run.numbers[f"gold/{group}/scenes"] for group in run.groups}
    note = f"{words(GIVEN_PRESENCE)}: scenes in which both arms show everybody. {PAIRED}"
    if few := [f"{words(group)} ({found})" for group, found in count.items() if found < FEWEST]:
        note += f" Left out, of fewer than {FEWEST} scenes: {', '.join(few)}."
    rows = []
    for group in run.groups:
        cells = [_in_group(run, "gold", group, aspect) for aspect in run.results["aspects"]]
        rows += [(words(group), str(count[group]), *cells)] * (count[group] >= FEWEST)
    tables = [Table([run.name_of(run.arms[0]), "scenes", *map(words, run.results["aspects"])], rows, note)]
    others = [(arm, run.prefix(arm)) for arm in run.arms]
    others += [(f"{arm} over {other}", f"gold/{arm}_over_{other}") for arm, other in run.compared]
    if len(others) > 1:
        cells = {name: [_in_group(run, prefix, group, MEAN) for group in run.groups] for name, prefix in others}
        header = ["mean of aspects", *map(words, run.groups)]
        tables.append(Table(header, [(name, *found) for name, found in cells.items()], note))
    return tables


def comparisons(run: Run) -> list[Table]:
    """The arms that are compared with each other, by aspect."""
    if not run.compared:
        return []
    names = [*run.results["aspects"], *[MEAN] * run.gold]
    rows = []
    for arm, other in run.compared:
        key = f"{run.results['kind']}/{arm}_over_{other}"
        rows.append((f"{arm} over {other}", *[_difference(run.numbers, f"{key}/{name}") for name in names]))
    note = f"The first arm less the second, means over {len(run.results['scenes'])} scenes. {PAIRED}"
    return [Table(["pair of arms", *map(words, names)], rows, note)]


def fidelity(run: Run) -> list[Table]:
    """What other rewards say of the arms, and how far these are from true pictures."""
    found = {entry: read_json(run.workdir / entry / "results.json") for entry in run.entries("fidelity")}
    return [_measured(run, entry, each) for entry, each in found.items() if len(each["arms"]) > 1]


def agreement(run: Run) -> list[Table]:
    """How often rewards prefer what each accuracy entry's gold prefers, of all pairs and of given ones."""
    found = []
    for entry in run.entries("accuracy"):
        options, numbers = run.config[entry], run.manifests[entry]["summary"]
        for part, given in {"": "", "given/": options.get("given", "")}.items():
            aspects = _aspects_of(numbers, f"{part}pairs/")
            header = [entry, *(f"{words(aspect)} ({numbers[f'{part}pairs/{aspect}']:,})" for aspect in aspects)]
            rows = [
                (name, *(_share(numbers, f"{part}{name}/{aspect}") for aspect in aspects))
                for name in options["sources"]
            ]
            note = f"How often each prefers what {options['gold']} prefers, of so many pairs"
            note += f"{f' whose pictures both have {given} 1' if given else ''}, with 95 % intervals; a guess: 50 %."
            found += [Table(header, rows, note)] if aspects else []
    return found


def _aspects_of(numbers, prefix):
    """What follows the prefix in the keys of those numbers that are not 0."""
    return [key.removeprefix(prefix) for key, count in numbers.items() if key.startswith(prefix) and count]


def verdict(run: Run) -> str:
    """One paragraph that claims no more than the intervals do."""
    if not run.judge:
        told = " ".join(_agreeing(run))
        return told or "Nothing was evaluated in this run, so there is nothing to claim."
    if not run.arms:
        why = "Alignment was skipped: no pair survived screening." if run.skipped else "Nothing was trained."
        return f"{why} What is shown is the baseline alone."
    return " ".join([*_changes(run), *_caveats(run)])


def privileged(config: dict[str, Any], entry: str) -> str:
    """What a train entry, or one that chose of it, learned from and knows the gold judge, itself or by what it learned
    from; "" for nothing.
    """
    if config.get("scenes"):
        return ""  # no gold judges a user's scenes
    train = config[training_of(config, entry)]
    source, before = config.get(train.get("source", ""), {}), train.get("after", "")
    found = [_of_rewards(config, train)] if train.get("trains", GENERATOR) == GENERATOR else []
    found += [_of_rewards(config, config[entry])] if train is not config[entry] else []
    if source.get("stage") == "screen":  # people's own preferences know nothing of it
        found.append(_of_rewards(config, config[source["source"]], source.get("aspects")))
    if source.get("annotator") == Raters.name:
        found.append(RATERS if source["stage"] == "annotate" else f"pairs kept by {RATERS}")
    if train.get("trains") == "reward" and train.get("drawn"):
        found.append("the oracle's descriptions")
    return _joined([*found, privileged(config, before) if before else ""])


def is_clear(run: Run) -> bool:
    """Whether any aspect's interval for the first arm leaves 0 out."""
    return any(
        _change(run.numbers, run.key(arm, aspect))[0] != UNCLEAR
        for arm in run.arms[:1]
        for aspect in run.results["aspects"]
    )


def percent(share: float) -> str:
    """A share as a person writes it."""
    return f"{100 * share:.1f} %"


def words(name: str) -> str:
    """A name as a person writes it."""
    return name.replace("_", " ")


def _of_rewards(config, section, aspects=()):
    """What of an entry's reward, or of those that it is put together from, knows the gold judge."""
    rewards = [(section, section["reward"])] if section.get("reward", "") else []
    if section.get("reward") == PerAspect.name:
        by_aspect = section[PerAspect.name]
        rewards = [(section, by_aspect[aspect]) for aspect in aspects or by_aspect]
    if section.get("reward") == Ensemble.name:
        rewards = [(config[term], config[term]["reward"]) for term, weight in section[Ensemble.name].items() if weight]
    found = [_informed(config, *reward) for reward in rewards]
    known = _joined(found)
    return known if all(found) or not known else f"several rewards, among them {known}"


def _joined(found):
    return ", and ".join(dict.fromkeys(filter(None, found)))


def _informed(config, score, name):
    """`privileged` of one of the rewards of a score entry."""
    options = score.get(name, {})
    if name == TRAINED:
        learned = privileged(config, score["reward_from"])
        return learned and f"a reward that learned from {learned}"
    if name == "aesthetic" and options.get("version") == STORYBOOK and not options.get("head"):
        return STORYBOOK_HEAD
    return INFORMED.get(name, "")


def _by_aspect(run):
    numbers, rows = run.numbers, []
    columns = ("baseline", "aligned", "ceiling") if run.gold else ("baseline", "aligned")
    for label, key in _measures(run):
        cells = [_number(numbers, f"{key}/{column}") for column in columns]
        closed = [_closed(numbers, key) if label == label.strip() else ""] if run.gold else []
        rows.append((label, *cells, _difference(numbers, key), *closed))
    if run.gold:
        rows.append(("mean of aspects", "", "", "", "", _gap_closed(run, run.arms[0])))
    header = ["", "baseline", run.name_of(run.arms[0]), *columns[2:], "difference [interval]"]
    return header + ["closed"] * run.gold, rows


def _by_arm(run):
    rows = []
    for arm in run.arms:
        cells = [_difference(run.numbers, run.key(arm, aspect)) for aspect in run.results["aspects"]]
        rows.append((arm, *cells, *[_gap_closed(run, arm) for _ in range(run.gold)]))
    return ["arm", *map(words, run.results["aspects"])] + ["closed"] * run.gold, rows


def _measured(run, entry, found):
    """Measures by arm, the first of which has keys without its name; distances where there are any."""
    numbers = run.manifests[entry]["summary"]
    (_, first, *others), rows = found["arms"], []
    for measure, aspects in found["aspects"].items():
        prefixes = [measure, *(f"{measure}/{arm}" for arm in others)]
        for aspect in aspects:
            cells = [_difference(numbers, f"{prefix}/{aspect}") for prefix in prefixes]
            rows.append((f"{measure}: {words(aspect)}", _number(numbers, f"{measure}/{aspect}/baseline"), *cells))
        wins = [_share(numbers, f"{measure}/{arm}/win_rate") for arm in (first, *others)]
        rows.append(("  preferred to the baseline", "", *wins))
    for distance in found["distances"]:
        rows.append((words(distance), *(f"{numbers[f'{distance}/{arm}']:.4f}" for arm in found["arms"])))
    note = f"Means over scenes, and how often a scene's pictures are preferred by each. {PAIRED} {_DISTANCES}"
    return Table([entry, "baseline", first, *others], rows, note)


def _share(numbers, key):
    share, low, high = (100 * numbers[f"{key}{end}"] for end in ("", "_low", "_high"))
    return f"{share:.1f} % [{low:.1f}, {high:.1f}]"


def _measures(run) -> Iterator[tuple[str, str]]:
    """Label and key of every aspect and its criteria, of the first arm."""
    for aspect, criteria in run.results["aspects"].items():
        yield words(aspect), f"{run.results['kind']}/{aspect}"
        for criterion in criteria:
            mark = f" {NOBODY_IS_0}" * (run.gold and criterion in MOVED_BY_PRESENCE)
            yield f"  {words(criterion)}{mark}", f"{run.results['kind']}/{aspect}/{criterion}"


def _number(numbers, key):
    return f"{round(numbers[key], 3) + 0.0:.3f}"  # never -0.000


def _signed(value):
    return f"{round(value, 3) + 0.0:+.3f}"


def _change(numbers, key):
    """Mark, difference and its interval, to the digits that are shown: what is shown as 0 is none."""
    diff, low, high = (round(numbers[f"{key}/{name}"], 3) for name in ("diff", "diff_low", "diff_high"))
    return UP if low > 0 else DOWN if high < 0 else UNCLEAR, diff, low, high


def _difference(numbers, key):
    mark, *values = _change(numbers, key)
    diff, low, high = map(_signed, values)
    return f"{mark}{diff} [{low}, {high}]"


def _in_group(run, prefix, group, name):
    """The difference of a measure in a group of scenes; "–" where there are too few."""
    key = f"{prefix}/{group}"
    return _difference(run.numbers, f"{key}/{name}") if run.numbers[f"{key}/scenes"] >= FEWEST else "–"


def _gap_closed(run, arm):
    """The share that an arm closed, and its interval."""
    share, low, high = (run.numbers[run.key(arm, f"gap_closed{end}")] for end in ("", "_low", "_high"))
    return f"{percent(share)} [{100 * low:.1f}, {100 * high:.1f}]"


def _closed(numbers, key):
    gap = numbers[f"{key}/ceiling"] - numbers[f"{key}/baseline"]
    return percent(numbers[f"{key}/diff"] / gap) if abs(gap) > 1e-6 else "–"


def _changes(run):
    """What changed and what cannot be told; then how far that goes."""
    arm, found = run.arms[0], {UP: [], DOWN: [], UNCLEAR: []}
    for aspect in run.results["aspects"]:
        mark, diff, low, high = _change(run.numbers, run.key(arm, aspect))
        between = f", interval {_signed(low)} to {_signed(high)}" if mark == UNCLEAR else ""
        found[mark].append(f"{words(aspect)} ({_signed(diff)}{between})")
    clear = [f"{verb} {_and(found[mark])}" for verb, mark in (("improved", UP), ("worsened", DOWN)) if found[mark]]
    judge = "the oracle" if run.gold else f"the reward {run.reward_of(run.judge)}"
    name = "alignment" if run.name_of(arm) == "aligned" else arm
    start = (
        f"On {len(run.results['scenes'])} scenes, drawn from the same noise with and without it and judged by {judge},"
    )
    yield f"{start} {name} {_and(clear) if clear else 'shows no clear change'}."
    if found[UNCLEAR]:
        interval = "its 95 % interval includes" if len(found[UNCLEAR]) == 1 else "their 95 % intervals include"
        yield f"No change can be claimed for {_and(found[UNCLEAR])}: {interval} 0."
    if run.gold and clear:
        share = run.numbers["gold/gap_closed"]
        moved = f"{_verb(share)} by {percent(abs(share))}{_given_presence(run)}"
        yield f"The gap from the baseline to true pictures {moved}."
    if run.gold and len(run.arms) > 1:
        shares = {arm: run.numbers[run.key(arm, "gap_closed")] for arm in run.arms}
        best = max(shares, key=shares.get)
        told = f"Of all {len(shares)} arms {best} closed most of it: {percent(shares[best])}."
        yield told if shares[best] > 0 else f"None of the {len(shares)} arms closed any of it."


def _agreeing(run):
    """How often the leader of each accuracy entry, or its first reward, prefers what is preferred."""
    for entry in run.entries("accuracy"):
        options, numbers = run.config[entry], run.manifests[entry]["summary"]
        name = options.get("leader", "") or options["sources"][0]
        shares = [
            f"{_share(numbers, f'{name}/{each}')} of {numbers[f'pairs/{each}']:,} pairs on {words(each)}"
            for each in _aspects_of(numbers, "pairs/")
        ]
        yield f"{name} prefers what {options['gold']} prefers in {_and(shares)}; a guess would in half of them."
        if informed := _informed(run.config, run.config[name], run.config[name].get("reward", "")):
            yield f"It is privileged: {informed}."


def _given_presence(run):
    """What is left of the gain where nobody's presence changed."""
    key = run.key(run.arms[0], f"{GIVEN_PRESENCE}/")
    if run.numbers.get(f"{key}scenes", 0) < FEWEST:
        return ""
    share = run.numbers[f"{key}gap_closed"]
    again = "" if _verb(share) == _verb(run.numbers["gold/gap_closed"]) else f"{_verb(share)} "
    return f", and {again}by {percent(abs(share))} where both show everybody"


def _verb(share):
    """What the gap did."""
    return "closed" if share >= 0 else "grew"


def _caveats(run):
    if run.gold and run.trained and (informed := privileged(run.config, run.shown or run.trained)):
        yield f"The feedback was privileged: trained on {informed}."
    if not run.gold:
        trained_on = run.screen and run.same_reward(run.config[run.screen]["source"], run.judge)
        same = ", and the very reward that was trained on" if trained_on else ""
        yield f"That reward is a stand-in for a judge{same}: look at the pictures before you believe it."
    if run.config[run.judge].get("source", ""):
        yield "The scenes are those of the pictures that were trained on: how others are drawn is not shown."
    if run.rising:
        yield "Both errors rose in training, the preferred pictures' too: the generator was pushed away from both."
    if len(run.results["scenes"]) < FEWEST:
        yield f"So few scenes ({len(run.results['scenes'])}) say little."


def _and(parts):
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
