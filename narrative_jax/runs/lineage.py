"""What an entry's data went through before it."""

from collections.abc import Mapping
from typing import Any

_BEFORE = ("source", "trained", "after")  # whose data an entry reads, who drew it, on top of whom it learns


def made_from(config: Mapping[str, Any], name: str, stage: str) -> str:
    """The entry itself or the nearest one of a stage among those that its data comes from, "" where there is none."""
    if not name or config[name].get("stage", "") == stage:
        return name
    before = (config[name].get(key, "") for key in _BEFORE)
    found = (made_from(config, each, stage) for each in before if isinstance(each, str))
    return next(filter(None, found), "")
