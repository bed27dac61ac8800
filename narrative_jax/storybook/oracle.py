"""The gold judge: compares what a picture shows, read blind, with what its scene asks for.

Three aspects of three criteria each, all in [0, 1]; an aspect's score is the mean of its criteria.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.parse import PRESENT, Parse, check_pictures, parse
from narrative_jax.storybook.world import (
    ATTRIBUTE_NAMES,
    ATTRIBUTES,
    LOCATIONS,
    PORTRAIT_POSE,
    POSES,
    STYLES,
    WORLD,
    Facts,
    World,
    identity_codes,
)

ASPECTS = {
    "prompt_following": ("count", "actions", "setting"),
    "identity_consistency": ("attributes", "no_leak", "no_copy"),
    "visual_quality": ("cleanness", "completeness", "composition"),
}
CRITERIA = tuple(criterion for criteria in ASPECTS.values() for criterion in criteria)

_CLEAN, _DIRTY = 0.03, 0.08  # RMS distance to the nearest picture: clean enough; 1/e of the cleanness left
STRANGER = 0.5  # share of right attributes below which a figure is more and more somebody else
_ENOUGH = 4  # attributes that must be visible for full marks: one that is right by chance tells nothing
_UNLIKE = 0.2  # cleanness below which a picture is less and less one of this world, however it is composed
_TOLERATED = 0.06  # share of a figure that may be covered or cut off without harm: a hand
_RUINED = 0.60  # share at which composition is lost


@dataclass(frozen=True)
class Seen:
    """One character asked for, as seen; attributes that are covered or beyond the frame are left out.

    `wrong` maps attributes to the value seen, `leaked` those whose seen value is another character's to its name;
    `unreadable` are attributes in sight of which no value is recognised; `action` is the pose seen, None where
    unreadable; `missing_parts` the body parts not drawn, left and right as the viewer sees them.
    """

    name: str
    wrong: dict[str, str]
    leaked: dict[str, str]
    unreadable: tuple[str, ...]
    action: str | None
    missing_parts: tuple[str, ...]
    cut: float
    covered: float


@dataclass(frozen=True)
class Findings:
    """What the oracle found in one picture, as facts: `characters` are the matched ones, in the scene's order."""

    characters: tuple[Seen, ...]
    missing: tuple[str, ...]
    extra: int
    location: str | None
    style: str | None
    distance: float


@dataclass(frozen=True)
class Judgement:
    """`criteria` f32[b, 9] in the order of CRITERIA, `aspects` f32[b, 3] in that of ASPECTS, and the findings."""

    criteria: np.ndarray
    findings: tuple[Findings, ...]

    @property
    def aspects(self) -> np.ndarray:
        return self.criteria.reshape(len(self.criteria), len(ASPECTS), -1).mean(-1)


def judge(pictures: np.ndarray, all_facts: Sequence[Facts], world: World = WORLD) -> Judgement:
    """Judge pictures f32[b, 40, 40, 3] in [-1, 1] against the facts of their scenes. Raises InputError."""
    pictures = check_pictures(pictures)
    if len(pictures) != len(all_facts):
        raise InputError(
            f"{len(pictures)} pictures and facts of {len(all_facts)} scenes",
            "each picture has its scene",
            "repeat or drop scenes",
        )
    for facts in all_facts:
        world.check(facts)
    return compare(parse(pictures, world.max_characters + 1), all_facts)


def compare(seen: Parse, all_facts: Sequence[Facts]) -> Judgement:
    """Judge pictures already parsed against the facts of their scenes."""
    rows = [_compare(seen, row, facts) for row, facts in enumerate(all_facts)]
    criteria, findings = zip(*rows, strict=True)
    return Judgement(np.float32(criteria), findings)


def _compare(seen, row, facts):
    found = np.flatnonzero(seen.drawing.present[row])
    wanted = np.stack([identity_codes(c.attributes) for c in facts.characters])
    right = _agreement(seen, row, found, wanted)
    pairs = _match(right)
    people = [_see(seen, row, found[f], facts, wanted, w) for w, f in pairs]

    location = seen.locations[row, list(LOCATIONS).index(facts.location)]
    style = seen.styles[row, list(STYLES).index(facts.style)]
    poses = [seen.actions[row, found[f]] for _, f in pairs]
    actions = [pose[POSES.index(facts.characters[w].action)] for pose, (w, _) in zip(poses, pairs, strict=True)]
    copies = [pose[POSES.index(PORTRAIT_POSE)] for pose in poses]
    own = [min(1.0, right[w, f] / STRANGER) for w, f in pairs]
    distance = float(seen.distance[row])
    cleanness = np.exp(-max(0.0, distance**2 - _CLEAN**2) / _DIRTY**2) if len(found) else 0.0
    likeness = min(1.0, cleanness / _UNLIKE)
    criteria = (
        1 - abs(len(found) - len(wanted)) / max(len(found), len(wanted)),
        _mean(actions),
        (location + style) / 2,
        _mean([right[w, f] for w, f in pairs]),
        _mean([same * (1 - _leak(seen, row, found[f], wanted, w)) for same, (w, f) in zip(own, pairs, strict=True)]),
        _mean([same * (1 - copy) for same, copy in zip(own, copies, strict=True)]),
        cleanness,
        likeness * _mean(seen.parts[row, found].prod(-1)),
        likeness * _mean([_composed(seen.cut[row, f]) * _composed(seen.covered[row, f]) for f in found]),
    )
    findings = Findings(
        characters=tuple(people),
        missing=tuple(c.name for w, c in enumerate(facts.characters) if w not in dict(pairs)),
        extra=max(0, len(found) - len(wanted)),
        location=_surest(seen.locations[row], tuple(LOCATIONS)),
        style=_surest(seen.styles[row], tuple(STYLES)),
        distance=distance,
    )
    return criteria, findings


def _mean(values):
    """Mean over characters; 0 where there is none."""
    return float(np.mean(values)) if len(values) else 0.0


def _composed(share):
    """1 while no more of a figure is hidden than may be, 0 once it is ruined."""
    return float(np.clip((_RUINED - share) / (_RUINED - _TOLERATED), 0, 1))


def _surest(recognised, values):
    """The value that is recognised, None where nothing is."""
    best = int(recognised.argmax())
    return values[best] if recognised[best] > PRESENT else None


def _agreement(seen, row, found, wanted):
    """How far each found figure has each wanted character's attributes, over the visible ones, f32[wanted, found]."""
    agreement = np.zeros((len(wanted), len(found)))
    for f, slot in enumerate(found):
        visible = seen.visible[row, slot]
        if visible.any():
            sure = seen.attributes[row, slot][np.arange(len(ATTRIBUTE_NAMES)), wanted]
            agreement[:, f] = sure[:, visible].sum(1) / max(visible.sum(), _ENOUGH)
    return agreement


def _match(agreement):
    """Pairs (wanted, found) with the largest sum of agreement: the assignment problem, small enough to enumerate."""
    wanted, found = agreement.shape
    if found < wanted:
        return [(w, f) for f, w in _match(agreement.T)]
    columns = max(permutations(range(found), wanted), key=lambda c: agreement[range(wanted), c].sum())
    return list(enumerate(columns))


def _leak(seen, row, slot, wanted, own):
    """How surely some attribute is another character's: of an attribute that differs, the other's value is seen."""
    worst = 0.0
    for other in range(len(wanted)):
        differs = (wanted[other] != wanted[own]) & seen.visible[row, slot]
        sure = seen.attributes[row, slot][np.arange(len(ATTRIBUTE_NAMES)), wanted[other]]
        worst = max(worst, 1 - np.prod(1 - sure[differs]))
    return worst


def _see(seen, row, slot, facts, wanted, own):
    """The facts about one matched figure."""
    wrong, leaked, unreadable = {}, {}, []
    for i, name in enumerate(ATTRIBUTE_NAMES):
        value = _surest(seen.attributes[row, slot, i, : len(ATTRIBUTES[name])], ATTRIBUTES[name])
        if seen.visible[row, slot, i] and value is None:
            unreadable.append(name)
        if not seen.visible[row, slot, i] or value in (None, ATTRIBUTES[name][wanted[own, i]]):
            continue
        wrong[name] = value
        owners = [c.name for c in facts.characters if c.attributes[name] == value]
        if owners:
            leaked[name] = owners[0]
    return Seen(
        name=facts.characters[own].name,
        wrong=wrong,
        leaked=leaked,
        unreadable=tuple(unreadable),
        action=_surest(seen.actions[row, slot], POSES),
        missing_parts=tuple(part for part, sure in zip(PARTS, seen.parts[row, slot], strict=True) if sure <= PRESENT),
        cut=float(seen.cut[row, slot]),
        covered=float(seen.covered[row, slot]),
    )
