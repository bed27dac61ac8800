"""People's own examples: pictures, and each one's subject as another picture shows it."""

from pathlib import Path

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene
from narrative_jax.data.dreambooth import read_dreambooth
from narrative_jax.data.photos import Embedded
from narrative_jax.data.subjects200k import GOOD, read_subjects200k


def find_examples(
    path: str | Path, quality: int | None = None, damaged_policy: str = "stop"
) -> tuple[list[tuple[Scene, Path | Embedded]], list[str]]:
    """Scenes with a picture each, and what is left out, a phrase for each; no picture is decoded.

    `path` is a Parquet file of Subjects200K or a folder with some somewhere below, whose rows are taken where all
    ratings are `quality` or more (None: as its authors ask); or a folder with a folder of photos for each subject. See
    `read_subjects200k` and `read_dreambooth`. Raises InputError as those, and for a quality of what nobody has rated.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}", "there is no such file or folder", "correct the path")
    if files := [path] if path.is_file() else sorted(path.rglob("*.parquet")):
        return read_subjects200k(files, GOOD if quality is None else quality, damaged_policy)
    if quality is not None:
        raise InputError(f"quality {quality!r}", "only Parquet files of Subjects200K have ratings", "leave it out")
    return read_dreambooth(path, damaged_policy)
