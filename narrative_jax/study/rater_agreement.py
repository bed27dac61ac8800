"""How far raters agree, with one another and with the oracle: `python -m narrative_jax.study.rater_agreement`.

Four candidates a scene are true pictures, each with one damage drawn at random; all six pairs are compared.
"""

import itertools
import sys

import numpy as np
from tqdm import tqdm

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import check_count
from narrative_jax.core.markdown import table
from narrative_jax.statistics import krippendorff_alpha, majority, pairwise_agreement
from narrative_jax.storybook.corruptions import CORRUPTIONS, GRADED, corrupt
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.oracle import ASPECTS, Judgement, judge
from narrative_jax.storybook.raters import Rater

CANDIDATES = 4
RATERS = 10  # two panels of five
TARGET = (0.70, 0.78)


def candidates(num_scenes: int, seed: int) -> tuple[Judgement, list[str]]:
    """Judgement of the damaged candidates of tune scenes, scene by scene, and the candidates' ids."""
    facts, drawing = drawings("tune", range(num_scenes), seed)
    rng = np.random.default_rng(seed)
    shape = (num_scenes, CANDIDATES)
    kinds, strengths = rng.choice(CORRUPTIONS, shape), rng.uniform(0.2, 0.8, shape)
    strengths[~np.isin(kinds, GRADED)] = 1
    rows = tqdm(list(np.ndindex(shape)), desc="damage", delay=5)
    pictures = [corrupt(drawing[[r]], str(kinds[r, c]), strengths[r, c], r * CANDIDATES + c) for r, c in rows]
    ids = [f"tune-{seed}-{r:06d}/{c}" for r, c in np.ndindex(shape)]
    return judge(np.concatenate(pictures), [facts[r] for r, _ in np.ndindex(shape)]), ids


def verdicts(rater: Rater, judgement: Judgement, ids: list[str], aspect: str) -> np.ndarray:
    """One rater's verdict on every pair of a scene's candidates, +1 first, 0 tie, -1 second, i[pairs]."""
    pairs = _pairs(len(ids))
    preferences = rater.prefer(rater.scores(judgement, ids), ids, pairs, aspect)
    return np.array(
        [0 if p.tie else (1 if p.chosen_id == ids[i] else -1) for (i, _), p in zip(pairs, preferences, strict=True)]
    )


def gold_verdicts(judgement: Judgement, aspect: str) -> np.ndarray:
    """The oracle's verdict on the same pairs; a tie where its scores differ by less than 0.01."""
    aspects = judgement.aspects
    values = aspects.mean(1) if aspect == "overall" else aspects[:, list(ASPECTS).index(aspect)]
    gaps = np.array([values[i] - values[j] for i, j in _pairs(len(values))])
    return np.where(np.abs(gaps) < 0.01, 0, np.sign(gaps)).astype(int)


def _pairs(count):
    scenes = range(0, count, CANDIDATES)
    return [(s + i, s + j) for s in scenes for i, j in itertools.combinations(range(CANDIDATES), 2)]


def agreement(judgement: Judgement, ids: list[str], aspect: str) -> dict[str, float]:
    """Shares of pairs on which single raters, panels of three and five, and the oracle agree."""
    votes = np.stack([verdicts(Rater(seed), judgement, ids, aspect) for seed in range(RATERS)])
    gold = gold_verdicts(judgement, aspect)
    clear = gold != 0
    figures = {
        "two raters": pairwise_agreement(votes).estimate,
        "two raters, no ties": pairwise_agreement(votes, ties="drop").estimate,
        "ties": float((votes == 0).mean()),
        "alpha": krippendorff_alpha(votes, "ordinal"),
        "one with the oracle": float((votes[:, clear] == gold[clear]).mean()),
    }
    for size in (3, 5):
        panels = np.stack([majority(votes[:size]), majority(votes[5 : 5 + size])])
        figures[f"two panels of {size}, no ties"] = pairwise_agreement(panels, ties="drop").estimate
        figures[f"panel of {size} with the oracle"] = float((panels[:, clear] == gold[clear]).mean())
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Print the table in Markdown; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300, help="tune scenes, four candidates each (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    return run(_print_table, parser, arguments)


def _print_table(options):
    check_count("scenes", options.scenes, minimum=2)
    check_count("seed", options.seed)
    judgement, ids = candidates(options.scenes, options.seed)
    columns = ("overall", *ASPECTS)
    found = [agreement(judgement, ids, aspect) for aspect in columns]
    header = [f"share of {len(ids) // CANDIDATES * 6} pairs, %", *(column.replace("_", " ") for column in columns)]
    print(table(header, [[figure, *(f"{100 * each[figure]:.1f}" for each in found)] for figure in found[0]]))


if __name__ == "__main__":
    sys.exit(main())
