"""Pictures of a prompt as people ranked them."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.text import check_text
from narrative_jax.data.photos import Embedded

FILES_KEPT = 64  # as looked through


class Ranked(NamedTuple):
    """Pictures of a prompt and their ranks, the best one's lowest; equal ones are ties."""

    id: str
    prompt: str
    pictures: Sequence[Path | Embedded]
    ranks: Sequence[float]


class Looked(NamedTuple):
    """What a file holds; of damaged prompts where they stand and why, and how many rows nobody judged."""

    ranked: list[Ranked]
    damaged: list[tuple[str, str]]
    unjudged: int


def checked(ranked: Ranked, read: Callable[[Any], bytes]) -> Ranked:
    """Itself. Raises InputError where something is missing, and for two pictures of which `read` gives the same."""
    if not check_text("prompt", ranked.prompt):
        raise InputError("prompt ''", "it is empty", "write one")
    if not np.isfinite(ranked.ranks).all():
        raise InputError(f"ranks {list(ranked.ranks)}", "ranks are numbers", "give some")
    if len(ranked.pictures) < 2 or len(ranked.pictures) != len(ranked.ranks):
        given = f"{len(ranked.pictures)} pictures and {len(ranked.ranks)} ranks"
        raise InputError(given, "each of two or more has a rank", "give as many")
    if len({zlib.crc32(read(each)) for each in ranked.pictures}) < len(ranked.pictures):
        raise InputError(f"{len(ranked.pictures)} pictures", "two of them are the same", "give some that differ")
    return ranked
