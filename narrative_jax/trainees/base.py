"""What a train entry trains: a generator, a reward or an encoder, beside the batches of each kind that it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from narrative_jax.algorithms.base import Algorithm, Batch, Models
from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.options import File
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.data.sources import MOST_CHARACTERS, storybook_scenes, storybook_training_set
from narrative_jax.runs.directory import Context


class Batches(NamedTuple):
    """How many elements there are, and what makes a batch of some, in the loader's thread: their names, the arrays."""

    size: int
    make: Callable[[np.ndarray], tuple[list[str], Batch]]


class Trainee(Protocol):
    """The weights `params`, which train, and `frozen`, which do not, in one flat tree; `axes` names the axes of all.

    `Options` is a dataclass with the options of an entry that trains it, beside those of training; `kinds` are the
    batches that it makes; `sample` is called each `sample_every` steps, 0 is never.
    """

    Options: type
    kinds: tuple[str, ...]
    axes: Mapping[str, tuple]
    params: Params
    frozen: Params
    sample_every: int

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """The names of further sections that an entry has."""

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: Any) -> None:
        """Raise InputError for what would fail later; looks at the config only, and at the files that it names."""

    @classmethod
    def files(cls, context: Context) -> list[File]:
        """What is read beside the options' own files."""

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: Any) -> "Trainee":
        """Before the first step, with its weights. Raises InputError."""

    def models(self, params: Params, frozen: Params) -> Models:
        """Who plays which role, with these weights."""

    def batches(self, algorithm: Algorithm) -> Batches:
        """Those of the kind that the algorithm trains on. Raises InputError for records that it cannot train on."""

    def sample(self, step: int, params: Params) -> None:
        """Leave something to look at of these weights after a step."""

    def save(self, params: Params) -> None:
        """Leave the trained weights, which are on the host, in the entry's folder. Raises InputError where the disk
        refuses. The first process alone does it.
        """


@dataclass(frozen=True)
class TrainingSetOptions:
    """A Storybook training set; see `storybook.datasets.TrainingSet`."""

    kind: str
    size: int
    seed: int = 0
    split: str = "train"
    characters: int = MOST_CHARACTERS

    def open(self):
        """The set. Raises InputError."""
        return storybook_training_set(self.kind, self.size, self.seed, self.split, self.characters)

    def scenes(self, most: int) -> list[Scene]:
        """The first scenes of it, so many at most."""
        return storybook_scenes(self.split, min(most, self.size), self.seed, self.characters)


def check_kind(trainee: type[Trainee], context: Context, algorithm: Algorithm) -> None:
    """Raise InputError unless the trainee makes batches of the kind that the algorithm trains on."""
    if algorithm.batch not in trainee.kinds:
        known = [name for name, each in context.tables.algorithms.items() if each.batch in trainee.kinds]
        check_name(f"algorithm for {context.entry.get('trains', 'generator')}", context.entry.algorithm, known)


def check_source(context: Context, training_set: TrainingSetOptions | None) -> None:
    """Raise InputError unless the entry trains on one thing: what an earlier entry left, or a training set."""
    source = context.entry.get("source", "")
    if source and training_set:
        given = f"source {source!r} and a training_set"
        raise InputError(given, "an entry trains on one of both", "leave one out")
    if not source and training_set is None:
        rule = "it is trained on what an earlier entry left, or on a training set"
        raise InputError(f"{context.name}.source ''", rule, "name an entry, or set training_set")
    if training_set:
        training_set.open()
