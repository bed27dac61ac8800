"""Subjects without their backgrounds, as a refine entry leaves them, and as what learned from it is shown them."""

from collections.abc import Iterable, Sequence

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.options import parse
from narrative_jax.core.records import Scene
from narrative_jax.data.backgrounds import BACKGROUNDS, GIVEN, GivenMasks, Masks, on_white
from narrative_jax.runs.candidates import REFINE
from narrative_jax.runs.collected import own_scenes
from narrative_jax.runs.directory import Context
from narrative_jax.runs.lineage import made_from


def background_of(context: Context) -> Masks | None:
    """How the context's refine entry removes backgrounds, None where it does not. Raises InputError."""
    name = context.entry.get("background", GIVEN)
    if not name:
        return None
    check_name("background", name, BACKGROUNDS)
    return parse(BACKGROUNDS[name], context.entry.get(name, {}), f"{context.name}.{name}")


def check_own_subjects(context: Context, source: str) -> None:
    """Raise InputError where the context's refine entry takes masks that people's own subjects lack: those that the
    entry `source` collects, or without one of the config's scenes.
    """
    if not isinstance(background_of(context), GivenMasks):
        return
    for scene in own_scenes(context, source):
        for subject in scene.subjects:
            if subject.masks is None:
                rule = f"subject {subject.name!r} of {scene.id!r} comes without a mask"
                remedy = "cut it out (a PNG, transparent around it), or take 'isnet', which finds it, or ''"
                raise InputError(f"{context.name}.background {GIVEN!r}", rule, remedy)


def as_trained(context: Context, names: Iterable[str], scenes: Sequence[Scene]) -> dict[str, Sequence[Scene]]:
    """For each of these train entries the scenes as what it learned from showed them: refined if that was, or what it
    came after. Raises InputError as the background does.
    """
    shown = {"": scenes}
    for source in {made_from(context.config, name, REFINE) for name in names} - {""}:
        by = background_of(context.of(source))
        shown[source] = [on_white(scene, by) for scene in scenes] if by else scenes
    return {name: shown[made_from(context.config, name, REFINE)] for name in names}


def background_trained_on(context: Context, name: str) -> Masks | None:
    """How backgrounds of the subjects that the train entry learned from were removed, None where they were not."""
    source = made_from(context.config, name, REFINE)
    return background_of(context.of(source)) if source else None


def check_own_shown(context: Context, names: Iterable[str], source: str = "") -> None:
    """Raise InputError unless people's own subjects, see `check_own_subjects`, can be shown as these train entries'
    were.
    """
    for refined in {made_from(context.config, name, REFINE) for name in names} - {""}:
        check_own_subjects(context.of(refined), source)
