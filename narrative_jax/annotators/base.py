"""What everybody who annotates has in common."""

from collections.abc import Sequence
from typing import Protocol

from narrative_jax.core.records import Annotation, Candidate, Example, Scene

SAME_SUBJECT = "same_subject"  # an aspect, rated from 0 to `SURE`
SURE = 5


class Annotator(Protocol):
    """Looks at pictures and says what is there; `needs_facts`: only at Storybook's own, whose truth it knows."""

    name: str
    needs_facts: bool

    def same_subject(self, examples: Sequence[Example]) -> list[Annotation]:
        """Whether each target shows the subjects of its scene, one annotation an example, by the scene's id.

        The attributes of the subjects are named and looked for in the target; the rating says from 0, certainly others,
        to `SURE`, certainly the same. Raises InputError where there is no answer: nothing is made up.
        """
        ...

    def annotate(self, pictures: Sequence[Candidate], scenes: Sequence[Scene]) -> list[Annotation]:
        """A critique and a score from 1 to 5 of each aspect of each picture of a scene, by each annotator that it is.

        Raises InputError where there is no answer.
        """
        ...
