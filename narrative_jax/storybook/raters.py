"""Storybook's annotators: the oracle's findings seen through a documented noise model.

A rater looks at a picture and overlooks some of what is wrong with small attributes, forgives part of a copied
pose, lets one aspect colour the others (halo), is more or less severe than others, scatters, and now and then
answers at random (lapse). Of two pictures the better seen one is preferred, with noise that flips close pairs
more often than clear ones, and a tie where hardly a difference is seen. All draws depend on the rater's seed and
the candidates' ids alone, so any part can be repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.records import Annotation, Preference
from narrative_jax.storybook.critiques import critique
from narrative_jax.storybook.oracle import ASPECTS, STRANGER, Findings, Judgement, Seen, judged_aspects
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, PORTRAIT_POSE, Facts

LOWEST, HIGHEST = 1.0, 5.0  # the papers' scale
SURE = 5.0  # that two pictures are of the same, on a scale from 0
_SMALL = ("hair", "hair_colour", "trousers")  # the attributes of fewest pixels


@dataclass(frozen=True)
class NoiseModel:
    """How raters err; deviations are in points of the scale from 1 to 5, the rest are shares of cases.

    The defaults make two raters agree on about three pairs of four, as people do in published studies.
    """

    severity: float = 0.4  # deviation of a rater's lasting bias
    scatter: float = 0.1  # deviation of one score on one aspect
    halo: float = 0.25  # share of the mean over aspects in each aspect's score
    lapse: float = 0.03  # share of answers given at random
    blindness: float = 0.35  # share of wrong small attributes overlooked
    copy_tolerance: float = 0.5  # share of what a copied pose cost that is forgiven
    choice: float = 0.03  # scale of the logistic noise on the difference between two pictures
    tie: float = 0.006  # largest difference, noise included, that is called a tie

    def __post_init__(self):
        for name, value in vars(self).items():
            share = name not in ("severity", "scatter", "choice", "tie")
            if not 0 <= value <= (1 if share else HIGHEST):
                raise InputError(
                    f"{name} {value}", f"it lies in [0, {1 if share else HIGHEST:g}]", "choose such a value"
                )


def _check_lengths(judgement, *others):
    if any(len(other) != len(judgement.criteria) for other in others):
        raise InputError(
            f"{len(judgement.criteria)} judged pictures beside {' and '.join(str(len(o)) for o in others)}",
            "each picture has one candidate id and one scene",
            "repeat or drop some",
        )


@dataclass(frozen=True)
class Rater:
    """One annotator; another `seed` is another person. Raises InputError for a seed that is no integer ≥ 0."""

    seed: int
    noise: NoiseModel = NoiseModel()

    def __post_init__(self):
        check_count("seed", self.seed)

    @property
    def name(self) -> str:
        return f"rater-{self.seed}"

    def scores(self, judgement: Judgement, candidate_ids: Sequence[str]) -> np.ndarray:
        """Unrounded scores from 1 to 5 on each aspect, f32[b, 3]. Raises InputError."""
        _check_lengths(judgement, candidate_ids)
        return np.float32([self._look(judgement, row, id)[0] for row, id in enumerate(candidate_ids)])

    def annotate(self, judgement: Judgement, scenes: Sequence[Facts], candidate_ids: Sequence[str]) -> list[Annotation]:
        """For each candidate and aspect, a critique of what the rater noticed and a score to a tenth of a point.

        Raises InputError.
        """
        _check_lengths(judgement, candidate_ids, scenes)
        annotations = []
        for row, (asked, candidate_id) in enumerate(zip(scenes, candidate_ids, strict=True)):
            scores, noticed = self._look(judgement, row, candidate_id)
            annotations += [
                Annotation(candidate_id, aspect, critique(aspect, noticed, asked), round(float(score), 1), self.name)
                for aspect, score in zip(ASPECTS, scores, strict=True)
            ]
        return annotations

    def same_subject(
        self, judgement: Judgement, scenes: Sequence[Facts], candidate_ids: Sequence[str]
    ) -> tuple[np.ndarray, list[str]]:
        """How sure the rater is that each picture shows the characters of the portraits, f32[b] from 0 to 5, and why.

        What they do is no matter; a missing character is none of them. Raises InputError.
        """
        _check_lengths(judgement, candidate_ids, scenes)
        ratings, words = [], []
        for findings, asked, candidate_id in zip(judgement.findings, scenes, candidate_ids, strict=True):
            rng = self._rng(candidate_id, "same subject")
            noticed = self._notice(findings, rng)
            alike = [min(seen.identity[:2]) for seen in noticed.characters] + [0.0] * len(noticed.missing)
            rating = SURE * np.mean(alike) + self.noise.scatter * rng.standard_normal()
            rating = rng.uniform(0, SURE) if rng.random() < self.noise.lapse else rating
            ratings.append(np.clip(rating, 0, SURE))
            words.append(critique("identity_consistency", noticed, asked))
        return np.float32(ratings), words

    def prefer(
        self,
        scores: np.ndarray,
        candidate_ids: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        aspect: str = "overall",
    ) -> list[Preference]:
        """Which of each pair of rows of this rater's `scores` f32[b, 3] is better, on an aspect or over all three."""
        check_name("aspect", aspect, (*ASPECTS, "overall"))
        values = scores.mean(1) if aspect == "overall" else scores[:, list(ASPECTS).index(aspect)]
        preferences = []
        for pair in pairs:
            first, second = sorted(pair, key=lambda row: candidate_ids[row])  # the order shown does not matter
            rng = self._rng(candidate_ids[first], candidate_ids[second], aspect)
            noise, lapses, coin = rng.logistic(scale=self.noise.choice or 1e-9), rng.random(), rng.random()
            gap = float(values[first] - values[second] + noise)
            if lapses < self.noise.lapse:
                gap = abs(gap) if coin < 0.5 else -abs(gap)
            chosen, rejected = (first, second) if gap >= 0 else (second, first)
            tie = abs(gap) < self.noise.tie
            seen = float(values[chosen] - values[rejected])  # below 0 where the choice went against the scores
            preferences.append(Preference(candidate_ids[chosen], candidate_ids[rejected], aspect, bool(tie), seen))
        return preferences

    def _rng(self, *words):
        return np.random.default_rng([self.seed, *"\n".join(words).encode()])

    def _look(self, judgement, row, candidate_id):
        """Scores f64[3] of one candidate, and the findings that the rater noticed."""
        noise, rng = self.noise, self._rng(candidate_id)
        noticed = self._notice(judgement.findings[row], rng)
        scores = LOWEST + (HIGHEST - LOWEST) * judged_aspects(judgement.criteria[row], noticed)
        scores = (1 - noise.halo) * scores + noise.halo * scores.mean()
        scores += noise.severity * self._rng("severity").standard_normal()
        scores += noise.scatter * rng.standard_normal(len(scores))
        random_scores = rng.uniform(LOWEST, HIGHEST, len(scores))
        scores = np.where(rng.random(len(scores)) < noise.lapse, random_scores, scores)
        return np.clip(scores, LOWEST, HIGHEST), noticed

    def _notice(self, findings: Findings, rng):
        """The findings of a rater who overlooks some small attributes and forgives some copying."""
        return replace(findings, characters=tuple(self._see(character, rng) for character in findings.characters))

    def _see(self, character: Seen, rng):
        blind = rng.random(len(ATTRIBUTE_NAMES)) < self.noise.blindness
        overlooked = [a for a in character.wrong if a in _SMALL and blind[ATTRIBUTE_NAMES.index(a)]]
        wrong = {a: v for a, v in character.wrong.items() if a not in overlooked}
        leaked = {a: v for a, v in character.leaked.items() if a not in overlooked}
        attributes, no_leak, no_copy = character.identity
        known = min(1.0, attributes / STRANGER)  # what neither a leak nor a copied pose costs
        attributes = min(1.0, attributes + len(overlooked) / len(ATTRIBUTE_NAMES))
        if character.leaked and not leaked:
            no_leak = known
        if character.action == PORTRAIT_POSE:
            no_copy += self.noise.copy_tolerance * (known - no_copy)
        return replace(character, wrong=wrong, leaked=leaked, identity=(attributes, no_leak, no_copy))
