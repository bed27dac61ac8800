"""Numbers, names and what an interval says, as a person reads them."""

from collections.abc import Mapping

UP, DOWN, UNCLEAR = "▲", "▼", "·"  # what an interval says
MARKS = {UP: "up", DOWN: "down", UNCLEAR: "unclear"}  # as the page calls them


def percent(share: float) -> str:
    """A share as a person writes it."""
    return f"{100 * share:.1f} %"


def words(name: str) -> str:
    """A name as a person writes it."""
    return name.replace("_", " ")


def signed(value: float) -> str:
    """A difference, with its sign; never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def change(numbers: Mapping[str, float], key: str) -> tuple[str, float, float, float]:
    """Mark, difference and its interval, to the digits that are shown: what is shown as 0 is none."""
    diff, low, high = (round(numbers[f"{key}/{name}"], 3) for name in ("diff", "diff_low", "diff_high"))
    return UP if low > 0 else DOWN if high < 0 else UNCLEAR, diff, low, high


def share_of(numbers: Mapping[str, float], key: str) -> str:
    """A share and its interval, of the key's numbers."""
    share, low, high = (100 * numbers[f"{key}{end}"] for end in ("", "_low", "_high"))
    return f"{share:.1f} % [{low:.1f}, {high:.1f}]"


def counted(numbers: Mapping[str, float], prefix: str) -> list[str]:
    """What follows the prefix in the keys of those numbers that are not 0."""
    return [key.removeprefix(prefix) for key, count in numbers.items() if key.startswith(prefix) and count]
