"""The gold judge: compares what a picture shows, read blind, with what its scene asks for.

Three aspects of three criteria each, all in [0, 1]. Prompt following and visual quality are means of their criteria.
Identity is the geometric mean of its criteria for each character, so that right colours cannot pay for a copied pose,
and then the mean over the characters asked for, so that nobody's absence pays either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.one_figure import PRESENT
from narrative_jax.storybook.parse import Parse, check_pictures, parse
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
MEASURES = (*CRITERIA, *ASPECTS)

_CLEAN, _DIRTY = 0.03, 0.08  # RMS distance to the nearest picture: clean enough; 1/e of the cleanness left
STRANGER = 0.5  # share of right attributes below which a figure is more and more somebody else
_CERTAIN = 0.95  # recognition that is as good as 1: it never gets there, and a cube root makes much of what is left
_ENOUGH = 4  # attributes that must be visible for full marks: one that is right by chance tells nothing
_UNLIKE = 0.2  # cleanness below which a picture is less and less one of this world, whatever else is found in it
_TOLERATED = 0.06  # share of a figure that may be covered or cut off without harm: a hand
_RUINED = 0.60  # share at which composition is lost


@dataclass(frozen=True)
class Seen:
    """One character asked for, as seen; attributes that are covered or beyond the frame are left out.

    `wrong` maps attributes to the value seen, `leaked` those whose seen value is another character's to its name;
    `unreadable` are attributes in sight of which no value is recognised; `action` is the pose seen, None where
    unreadable; `missing_parts` the body parts not drawn, left and right as the viewer sees them. `identity` are the
    criteria of identity for this one alone.
    """

    name: str
    wrong: dict[str, str]
    leaked: dict[str, str]
    unreadable: tuple[str, ...]
    action: str | None
    missing_parts: tuple[str, ...]
    cut: float
    covered: float
    identity: tuple[float, float, float]


@dataclass(frozen=True)
class Figure:
    """One figure as seen, whoever was asked for; `name` is whose it is, "" nobody's.

    `has` are the attributes in sight, None where no value is recognised; for the others see `Seen`.
    """

    name: str
    has: Mapping[str, str | None]
    action: str | None
    missing_parts: tuple[str, ...]
    cut: float
    covered: float


@dataclass(frozen=True)
class Findings:
    """What the oracle found in one picture, as facts: `characters` are the matched ones, in the scene's order; `alike`
    in [0, 1] is how far it is a picture of this world at all; `figures` are all, from left to right.
    """

    characters: tuple[Seen, ...]
    missing: tuple[str, ...]
    extra: int
    location: str | None
    style: str | None
    distance: float
    alike: float
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Judgement:
    """`criteria` f32[b, 9] in the order of CRITERIA, `aspects` f32[b, 3] in that of ASPECTS, and the findings.

    The aspects are no function of the criteria, which are means over characters.
    """

    criteria: np.ndarray
    aspects: np.ndarray
    findings: tuple[Findings, ...]

    @property
    def measures(self) -> np.ndarray:
        """Criteria and aspects, f32[b, 12] in the order of MEASURES."""
        return np.concatenate([self.criteria, self.aspects], axis=-1)

    @property
    def presence(self) -> np.ndarray:
        """The share of the characters asked for that are there, f32[b]."""
        counts = [(len(each.characters), len(each.missing)) for each in self.findings]
        return np.float32([there / (there + missing) for there, missing in counts])


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
    criteria, aspects, findings = zip(*rows, strict=True)
    return Judgement(np.float32(criteria), np.float32(aspects), findings)


def judged_aspects(criteria: np.ndarray, findings: Findings) -> np.ndarray:
    """The aspects f64[3] of one picture: identity by what was found of each character, others by criteria [9]."""
    prompt, _, quality = np.reshape(criteria, (len(ASPECTS), -1)).mean(-1)
    return np.array([prompt, _identity(findings), quality])


def _identity(findings):
    """See the module."""
    asked = len(findings.characters) + len(findings.missing)
    return findings.alike * sum(np.cbrt(np.prod(character.identity)) for character in findings.characters) / asked


def _compare(seen, row, facts):
    """Criteria, aspects and findings of one picture; `pairs` match characters asked for (w) with figures found (f)."""
    found = np.flatnonzero(seen.drawing.present[row])
    wanted = np.stack([identity_codes(c.attributes) for c in facts.characters])
    agreement = _agreement(seen, row, found, wanted)
    pairs = _match(agreement)
    matched = [(w, found[f], agreement[w, f]) for w, f in pairs]
    cleanness, completeness, composition = _quality(seen, row, found)
    findings = Findings(
        characters=tuple(_see(seen, row, slot, facts, wanted, w, share) for w, slot, share in matched),
        missing=tuple(c.name for w, c in enumerate(facts.characters) if w not in dict(pairs)),
        extra=max(0, len(found) - len(wanted)),
        location=_surest(seen.locations[row], tuple(LOCATIONS)),
        style=_surest(seen.styles[row], tuple(STYLES)),
        distance=float(seen.distance[row]),
        alike=min(1.0, cleanness / _UNLIKE),
        figures=_figures(seen, row, {slot: facts.characters[w].name for w, slot, _ in matched}),
    )
    count = 1 - abs(len(found) - len(wanted)) / max(len(found), len(wanted))
    actions, setting = _prompt(seen, row, matched, facts)
    identity = [_mean(values) for values in zip(*(c.identity for c in findings.characters), strict=True)] or [0.0] * 3
    # The setting alone may be right in a picture that is not one of this world.
    unlike = [findings.alike * value for value in (count, actions, *identity, completeness, composition)]
    criteria = np.array([*unlike[:2], setting, *unlike[2:5], cleanness, *unlike[5:]])
    return criteria, judged_aspects(criteria, findings), findings


def _prompt(seen, row, matched, facts):
    """Actions and setting."""
    actions = [seen.actions[row, slot, POSES.index(facts.characters[w].action)] for w, slot, _ in matched]
    location = seen.locations[row, list(LOCATIONS).index(facts.location)]
    style = seen.styles[row, list(STYLES).index(facts.style)]
    return _mean(actions), (location + style) / 2


def _criteria_of_identity(seen, row, slot, wanted, w, agreement):
    """Attributes, no leak and no copy of one matched figure; a stranger has nothing to leak or to copy."""
    known = min(1.0, agreement / STRANGER)
    leak, copy = _leak(seen, row, slot, wanted, w), seen.actions[row, slot, POSES.index(PORTRAIT_POSE)]
    kept = (known * (1 - min(1.0, sure / _CERTAIN)) for sure in (leak, copy))
    return float(agreement), *map(float, kept)


def _quality(seen, row, found):
    """Cleanness, completeness and composition."""
    excess = max(0.0, seen.distance[row] ** 2 - _CLEAN**2)
    cleanness = np.exp(-excess / _DIRTY**2) if len(found) else 0.0
    composed = [_composed(seen.cut[row, slot]) * _composed(seen.covered[row, slot]) for slot in found]
    return cleanness, _mean(seen.parts[row, found].prod(-1)), _mean(composed)


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


def _figures(seen, row, names):
    """All figures, from left to right."""
    across = seen.drawing.places[row, :, 0]
    slots = sorted(np.flatnonzero(seen.drawing.present[row]), key=lambda slot: across[slot])
    return tuple(_figure(seen, row, slot, names.get(slot, "")) for slot in slots)


def _figure(seen, row, slot, name):
    values = [
        _surest(sure[: len(each)], each)
        for sure, each in zip(seen.attributes[row, slot], ATTRIBUTES.values(), strict=True)
    ]
    in_sight = zip(ATTRIBUTE_NAMES, values, seen.visible[row, slot], strict=True)
    return Figure(
        name=name,
        has={attribute: value for attribute, value, visible in in_sight if visible},
        **_posed(seen, row, slot),
    )


def _posed(seen, row, slot):
    """What a figure does, and how much of it is there."""
    return {
        "action": _surest(seen.actions[row, slot], POSES),
        "missing_parts": tuple(
            part for part, sure in zip(PARTS, seen.parts[row, slot], strict=True) if sure <= PRESENT
        ),
        "cut": float(seen.cut[row, slot]),
        "covered": float(seen.covered[row, slot]),
    }


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


def _see(seen, row, slot, facts, wanted, own, agreement):
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
        **_posed(seen, row, slot),
        identity=_criteria_of_identity(seen, row, slot, wanted, own, agreement),
    )
