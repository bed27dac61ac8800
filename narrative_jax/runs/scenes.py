"""The scenes of a config, of an entry's options, or of what an earlier entry left."""

from collections.abc import Sequence
from typing import Any

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.memory import content_key
from narrative_jax.core.records import Scene
from narrative_jax.data.datasets import Records, open_records
from narrative_jax.data.sources import MOST_CHARACTERS, SUBJECT_POLICIES, limit_subjects, read_scenes, storybook_scenes
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import preset_of


def check_scenes(context: Context, split: str, count: int, seed: int, minimum: int = 1) -> None:
    """Raise InputError unless the config has at least `minimum` scenes that can be read and drawn."""
    config, max_subjects = context.config, preset_of(context).max_subjects
    check_name("max_subjects_policy", config.max_subjects_policy, SUBJECT_POLICIES)
    if not config.scenes:
        check_count("scenes", count, minimum)
        storybook_scenes(split, 1, seed, characters_of(config))
        return
    check_count("scenes", count)
    there = len(limit_subjects(read_scenes(config.scenes), max_subjects, config.max_subjects_policy)[0])
    if min(there, count or there) < minimum:
        given = f"{min(there, count or there)} scene of {config.scenes}"
        raise InputError(given, f"{minimum} or more are needed", "give more")


def some_scenes(config: Any, split: str, count: int, seed: int, max_subjects: int) -> tuple[Sequence[Scene], list[str]]:
    """The first `count` scenes of a split, or of a user's file (0: all), and the ids of those with too many subjects.

    A user's scenes have no splits: they are the same for every entry. Raises InputError.
    """
    check_count("scenes", count, minimum=0 if config.scenes else 1)
    scenes = (
        read_scenes(config.scenes) if config.scenes else storybook_scenes(split, count, seed, characters_of(config))
    )
    kept, dropped = limit_subjects(scenes, max_subjects, config.max_subjects_policy)
    return kept[: count or None], dropped


def characters_of(config: Any) -> int:
    """How many a Storybook scene has at most."""
    return config.get("characters", MOST_CHARACTERS)


def check_characters(reward: Any, name: str, characters: int, setting: str) -> None:
    """Raise InputError for a reward, an entry's `name`, that compares fewer subjects than scenes have by a setting."""
    most = getattr(getattr(reward, "reward", reward), "max_subjects", None)
    if most is not None and most < characters:
        rule = f"the reward of {name} compares {most}"
        remedy = f"set it to {most}, as all sets of scenes, or the reward's max_subjects to {characters}, with regions"
        raise InputError(f"{setting} {characters}", rule, remedy)


def check_learned(context: Context, reward: Any) -> None:
    """`check_characters` of the Storybook scenes that the context's entry learns from with a reward, if it does: of a
    training set, its own or its source's, or of those that its source draws.
    """
    source, own = context.entry.get("source", ""), context.config.get("scenes", "")
    for name in filter(None, (context.name, source)):
        if examples := context.config[name].get("training_set", None):
            setting = f"{name}.training_set.characters"
            check_characters(reward, context.name, examples.get("characters", MOST_CHARACTERS), setting)
            return
    if source and context.config[source].stage == "generate" and not own:
        check_characters(reward, context.name, characters_of(context.config), "characters")


def collected_scenes(context: Context, name: str, count: int, max_subjects: int, minimum: int) -> list[Scene]:
    """The first `count` (0: all) scenes of a collect entry that ask for different things.

    Raises InputError for fewer than `minimum`.
    """
    records, policy, asked = open_records(context.path(name) / "scenes", Scene), context.config.max_subjects_policy, {}
    for scene in records:
        if count and len(asked) == count:
            break
        if policy == "stop" or len(scene.subjects) <= max_subjects:
            limit_subjects([scene], max_subjects, policy)
            asked.setdefault((scene.prompt, content_key(*(each.images for each in scene.subjects))), scene)
    if len(asked) < minimum:
        rule = f"{minimum} or more different ones are needed"
        raise InputError(f"{len(asked)} scene of {name}", rule, "give more, or leave source empty for others")
    return list(asked.values())


def open_scenes(candidates: Records) -> tuple[Records, dict[str, int]]:
    """The scenes beside an entry's candidates, and the row of each id; they are read when they are needed, since their
    photos may be more than memory holds. Raises InputError for a candidate of a scene that is not there.
    """
    scenes = open_records(candidates.folder.with_name("scenes"), Scene)
    row_of = scenes.rows_by("id")
    strange = [id for id in candidates.columns("scene_id")["scene_id"] if id not in row_of]
    if strange:
        rule = "candidates are of this scene, which is not there"
        raise InputError(f"{scenes.folder}: scene {strange[0]!r}", rule, "remove the folder and generate again")
    return scenes, row_of
