"""The weights that ship with the package, and the files of one's own."""

from pathlib import Path

import narrative_jax
from narrative_jax.core.errors import InputError

STORYBOOK = "storybook"  # the size of the small networks that ship with their weights
RANDOM = "random"  # in place of a file of weights: those of an untrained network, from the config's seed
EMBEDDED = Path(narrative_jax.__file__).parent / "storybook" / "weights"  # data only: nothing of the world is imported


def weights_file(path: str | Path, size: str = "", embedded: str = "") -> Path:
    """The path; "" stands for what ships as `embedded` where the size is Storybook's. Raises InputError."""
    if not path and size == STORYBOOK:
        return EMBEDDED / "encoders" / f"{embedded}.safetensors"
    if not Path(path).is_file():
        raise InputError(f"weights {str(path)!r}", "there is no such file", "give the path of a published one")
    return Path(path)
