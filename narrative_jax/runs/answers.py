"""What models behind servers answered to a run's questions, which is paid for."""

from typing import Any

from narrative_jax.core.answers import Answers
from narrative_jax.core.chat import ChatModel
from narrative_jax.runs.directory import Context

ANSWERS = ".answers"  # a folder of the run: to be removed to ask anew


def keeping_answers(context: Context, found: Any) -> Any:
    """A rater or a reward whose answers stay in the run, where it asks a model; any other as it is."""
    return found.keeping(Answers(context.workdir / ANSWERS)) if isinstance(found, ChatModel) else found
