"""Annotators by name."""

from narrative_jax.annotators.raters import RaterAnnotators
from narrative_jax.annotators.server import ServerAnnotator

ANNOTATORS: dict[str, type] = {"raters": RaterAnnotators, "server": ServerAnnotator}
