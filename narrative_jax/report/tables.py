"""What a run found: as tables for a terminal or a page."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from narrative_jax.core.files import read_json
from narrative_jax.report.run import Run
from narrative_jax.report.wording import DOWN, UNCLEAR, UP, change, counted, percent, share_of, signed, words
from narrative_jax.rewards.oracle import MOVED_BY_PRESENCE
from narrative_jax.statistics.comparison import FEWEST, GIVEN_PRESENCE

WIDTH = 100  # columns of a terminal
PAIRED = f"Differences are paired, with 95 % intervals; {UP}{DOWN}: 0 lies outside, {UNCLEAR}: 0 lies inside."
MEAN = "mean_of_aspects"
_DISTANCES = "fid, kid: distance to true pictures by features of that network, less is better."
NOBODY_IS_0 = "°"  # marks criteria that are 0 where nobody is


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
    return [Table(*_by_aspect(run), note)] + [Table(*_by_arm(run, run.arms), note)] * (len(run.arms) > 1)


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
    """Of each group of scenes: the first arm by aspect, and where there are more arms all of them in one number, given
    presence by aspect too.
    """
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
    given = [arm for arm in run.arms if run.numbers[f"{run.prefix(arm)}/{GIVEN_PRESENCE}/scenes"] >= FEWEST]
    if len(given) > 1:
        tables.append(Table(*_by_arm(run, given, GIVEN_PRESENCE), note))
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
            aspects = counted(numbers, f"{part}pairs/")
            header = [entry, *(f"{words(aspect)} ({numbers[f'{part}pairs/{aspect}']:,})" for aspect in aspects)]
            rows = [
                (name, *(share_of(numbers, f"{part}{name}/{aspect}") for aspect in aspects))
                for name in options["sources"]
            ]
            note = f"How often each prefers what {options['gold']} prefers, of so many pairs"
            note += f"{f' whose pictures both have {given} 1' if given else ''}, with 95 % intervals; a guess: 50 %."
            found += [Table(header, rows, note)] if aspects else []
    return found


def _by_aspect(run):
    numbers, rows = run.numbers, []
    columns = ("baseline", "aligned", "ceiling") if run.gold else ("baseline", "aligned")
    for label, key in _measures(run):
        cells = [_number(numbers, f"{key}/{column}") for column in columns]
        closed = [_closed(numbers, key) if label == label.strip() else ""] if run.gold else []
        rows.append((label, *cells, _difference(numbers, key), *closed))
    if run.gold:
        rows.append(("mean of aspects", "", "", "", "", _gap_closed(run.numbers, run.prefix(run.arms[0]))))
    header = ["", "baseline", run.name_of(run.arms[0]), *columns[2:], "difference [interval]"]
    return header + ["closed"] * run.gold, rows


def _by_arm(run, arms, group=""):
    """These arms by aspect, of all scenes or of those of a group."""
    rows = []
    for arm in arms:
        prefix = f"{run.prefix(arm)}/{group}".rstrip("/")
        cells = [_difference(run.numbers, f"{prefix}/{aspect}") for aspect in run.results["aspects"]]
        rows.append((arm, *cells, *[_gap_closed(run.numbers, prefix) for _ in range(run.gold)]))
    return [words(group) or "arm", *map(words, run.results["aspects"])] + ["closed"] * run.gold, rows


def _measured(run, entry, found):
    """Measures by arm, the first of which has keys without its name; distances where there are any."""
    numbers = run.manifests[entry]["summary"]
    (_, first, *others), rows = found["arms"], []
    for measure, aspects in found["aspects"].items():
        prefixes = [measure, *(f"{measure}/{arm}" for arm in others)]
        for aspect in aspects:
            key, cells = f"{measure}/{aspect}", [_difference(numbers, f"{prefix}/{aspect}") for prefix in prefixes]
            true = _number(numbers, f"{key}/true") if f"{key}/true" in numbers else ""
            rows.append((f"{measure}: {words(aspect)}", true, _number(numbers, f"{key}/baseline"), *cells))
        if f"{measure}/{first}/win_rate" in numbers:  # of what is better where it is less, nobody asks
            wins = [share_of(numbers, f"{measure}/{arm}/win_rate") for arm in (first, *others)]
            rows.append(("  preferred to the baseline", "", "", *wins))
    for distance in found["distances"]:
        rows.append((words(distance), "", *(f"{numbers[f'{distance}/{arm}']:.4f}" for arm in found["arms"])))
    note = f"Means over scenes, and how often a scene's pictures are preferred by each. {PAIRED} {_DISTANCES}"
    return Table([entry, "true pictures", "baseline", first, *others], rows, note)


def _measures(run) -> Iterator[tuple[str, str]]:
    """Label and key of every aspect and its criteria, of the first arm."""
    for aspect, criteria in run.results["aspects"].items():
        yield words(aspect), f"{run.results['kind']}/{aspect}"
        for criterion in criteria:
            mark = f" {NOBODY_IS_0}" * (run.gold and criterion in MOVED_BY_PRESENCE)
            yield f"  {words(criterion)}{mark}", f"{run.results['kind']}/{aspect}/{criterion}"


def _number(numbers, key):
    return f"{round(numbers[key], 3) + 0.0:.3f}"  # never -0.000


def _difference(numbers, key):
    mark, *values = change(numbers, key)
    diff, low, high = map(signed, values)
    return f"{mark}{diff} [{low}, {high}]"


def _in_group(run, prefix, group, name):
    """The difference of a measure in a group of scenes; "–" where there are too few."""
    key = f"{prefix}/{group}"
    return _difference(run.numbers, f"{key}/{name}") if run.numbers[f"{key}/scenes"] >= FEWEST else "–"


def _gap_closed(numbers, prefix):
    """The share that an arm closed, and its interval."""
    share, low, high = (numbers[f"{prefix}/gap_closed{end}"] for end in ("", "_low", "_high"))
    return f"{percent(share)} [{100 * low:.1f}, {100 * high:.1f}]"


def _closed(numbers, key):
    gap = numbers[f"{key}/ceiling"] - numbers[f"{key}/baseline"]
    return percent(numbers[f"{key}/diff"] / gap) if abs(gap) > 1e-6 else "–"
