"""Things that belong together, drawn from a training set: what encoders are trained to find.

A caption and its picture, two looks at one picture (Chen et al. 2020: SimCLR), a character's portrait and a scene that
shows the same character. Pictures stay in [-1, 1], as the encoders' normalisation has them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.memory import Memory
from narrative_jax.models.tokenizer import Tokenizer

_LOOKS = 1000  # pairs of looks at each picture
_KEPT = 512  # megabytes of drawn examples: drawing one costs more than training on it
_LEAST_AREA, _LIGHT = 0.3, 0.2  # of a look: its share of the picture at least, how much lighter or darker at most


@dataclass(frozen=True)
class Matches:
    """Pairs from the examples of a training set, `per_example` of each; `halves` makes them of (example, which, x).

    `x` are the places of the example's subjects.
    """

    per_example: int
    halves: Callable[[Sequence[tuple]], tuple[np.ndarray, np.ndarray]]
    _drawn: Memory = field(default_factory=lambda: Memory(_KEPT, _size), compare=False)

    def of(self, training_set: Any, indices: Sequence[int]) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
        """The scenes' ids, and the first and the second halves of these pairs."""
        rows, which = np.divmod(indices, self.per_example)

        def draw(keys):
            new = [row for _, row in keys]
            return list(zip(training_set.batch(new), training_set.whereabouts(new), strict=True))

        drawn = self._drawn.look_up([(training_set, row) for row in rows.tolist()], draw)
        found = [(*each, int(w)) for each, w in zip(drawn, which, strict=True)]
        return [example.scene.id for example, _, _ in found], self.halves(found)


def captions_and_pictures(tokenizer: Tokenizer, length: int) -> Matches:
    """A caption as so many tokens and the picture of its scene, one of each example."""

    def halves(found):
        prompts = [example.scene.prompt for example, _, _ in found]
        return tokenizer.encode(prompts, length), to_float(np.stack([example.target for example, _, _ in found]))

    return Matches(1, halves)


def looks(size: int) -> Matches:
    """Two looks of this size at one picture of an example, its target or a subject image."""

    def halves(found):
        pairs = []
        for example, _, which in found:
            rng = np.random.default_rng([which, *example.scene.id.encode()])
            # the picture or a subject image: both are compared
            shown = [example.target, *(subject.images[0] for subject in example.scene.subjects)]
            picture = shown[rng.integers(len(shown))]
            pairs.append([_look(picture, size, rng) for _ in range(2)])
        first, second = np.stack(pairs, 1)
        return to_float(first), to_float(second)

    return Matches(_LOOKS, halves)


def portraits_and_scenes(size: int) -> Matches:
    """A character's portrait and the part of the picture that shows it, both of this size."""

    def halves(found):
        portraits, seen = [], []
        for example, places, which in found:
            subject = which % len(places)
            portraits.append(fit_image(example.scene.subjects[subject].images[0], size))
            seen.append(fit_image(_part(example.target, places, subject), size))
        return to_float(np.stack(portraits)), to_float(np.stack(seen))

    return Matches(2, halves)


def _size(drawn):
    example, _ = drawn
    return example.target.nbytes + sum(subject.images.nbytes for subject in example.scene.subjects)


def _look(picture, size, rng):
    """A random part of a picture at another size, perhaps mirrored, lighter or darker, u8[size, size, 3]."""
    side = len(picture)
    part = side * rng.uniform(_LEAST_AREA, 1) ** 0.5
    left, top = rng.uniform(0, side - part, 2)
    look = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, (left, top, left + part, top + part))
    look = np.asarray(look)[:, :: rng.choice([-1, 1])] * rng.uniform(1 - _LIGHT, 1 + _LIGHT)
    return np.uint8(look.clip(0, 255))


def _part(picture, places, subject):
    """What shows one subject: the half it stands in, or all of the picture where it is alone."""
    if len(places) == 1:
        return picture
    middle = picture.shape[1] // 2
    return picture[:, :middle] if places[subject] < 0.5 else picture[:, middle:]
