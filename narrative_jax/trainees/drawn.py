"""What a generator drew, as examples to learn from."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.memory import Memory
from narrative_jax.core.records import Example, Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.rewards.seen import see_squares
from narrative_jax.runs.candidates import open_candidates
from narrative_jax.runs.directory import Context

_SEEN = 64  # megabytes of what squares show
_DRAW = ("generate", "gather")  # stages that leave pictures of scenes


def check_drawn(context: Context, entry: str) -> None:
    """Raise InputError for an entry that draws nothing."""
    if context.config[entry].stage not in _DRAW:
        raise InputError(f"drawn {entry!r}", "it draws no pictures", "name an entry that generates or gathers")


class DrawnExamples:
    """The pictures that an entry drew; `alone` are those of scenes with one subject: of others nobody knows who stands
    where. `mixed`: half of them with another of the scenes in place of their own, of as many subjects.

    As `storybook.datasets.TrainingSet`, with random access. Raises InputError where there is no such picture.
    """

    def __init__(self, context: Context, entry: str, alone: bool = True, mixed: bool = False):
        self.scenes = open_records(context.path(entry) / "scenes", Scene)
        self.candidates = open_candidates(context, entry)
        self.row_of = {scene.id: row for row, scene in enumerate(self.scenes) if len(scene.subjects) == 1 or not alone}
        scene_ids = self.candidates.columns("scene_id")["scene_id"]
        self.rows = [(row, self.row_of[id]) for row, id in enumerate(scene_ids) if id in self.row_of]
        if not self.rows:
            rule = f"pictures of scenes{' with one subject' if alone else ''} are learned from"
            raise InputError(f"drawn {entry!r}", f"{rule}, and it drew none", "draw more scenes")
        if mixed:
            self.rows = self._mixed()
        self._seen = Memory(_SEEN)

    def _mixed(self):
        rng, by_count = np.random.default_rng(0), defaultdict(list)
        for row in self.row_of.values():
            by_count[len(self.scenes[row].subjects)].append(row)
        others = {row: other for rows in by_count.values() for row, other in zip(rows, np.roll(rows, 1), strict=True)}
        kept = rng.random(len(self.rows)) < 0.5
        return [(row, scene if own else others[scene]) for (row, scene), own in zip(self.rows, kept, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> list[Example]:
        """Several examples; the targets are what was drawn."""
        rows = [self.rows[index] for index in indices]
        return [Example(self.scenes[scene], self.candidates[candidate].image) for candidate, scene in rows]

    def squares(self, indices: Sequence[int], side: int) -> Sequence[np.ndarray]:
        """See `TrainingSet`; what was drawn is what the oracle sees."""

        def see(rows):
            return see_squares(np.stack([self.candidates[row].image for row in rows]), side)

        return self._seen.look_up([self.rows[index][0] for index in indices], see)

    def whereabouts(self, indices: Sequence[int]) -> list[tuple[float, ...]]:
        """See `TrainingSet`: the only one is looked for in the whole picture."""
        return [(0.5,) for _ in indices]


class WithDrawn:
    """The examples of a training set, but for each `every`th, which is a drawn one."""

    def __init__(self, examples: Any, drawn: DrawnExamples, every: int):
        self.examples, self.drawn, self.every = examples, drawn, every

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int]) -> list[Example]:
        """Several examples."""
        return self._of_both(indices, lambda examples, part: examples.batch(part))

    def whereabouts(self, indices: Sequence[int]) -> list[tuple[float, ...]]:
        """See `TrainingSet`."""
        return self._of_both(indices, lambda examples, part: examples.whereabouts(part))

    def squares(self, indices: Sequence[int], side: int) -> list[np.ndarray]:
        """See `TrainingSet`."""
        return self._of_both(indices, lambda examples, part: examples.squares(part, side))

    def _of_both(self, indices, read):
        """What `read` gives for each index, each of both sets asked once."""
        own, drawn = ([i for i in indices if bool(i % self.every) == which] for which in (True, False))
        found = dict(zip(own, read(self.examples, own), strict=True)) if own else {}
        if drawn:
            places = [index // self.every % len(self.drawn) for index in drawn]
            found |= zip(drawn, read(self.drawn, places), strict=True)
        return [found[index] for index in indices]
