"""How often 95 % intervals hold the truth, by simulation: `python -m narrative_jax.study.coverage`."""

import sys
from collections.abc import Callable

import numpy as np
from scipy import stats
from tqdm import tqdm

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import check_count
from narrative_jax.core.markdown import table
from narrative_jax.statistics import (
    Interval,
    alpha_interval,
    paired_bootstrap,
    pairwise_agreement,
    wilson,
    win_rate,
)

# One simulated study: draws data, returns the interval and the truth that it should hold.
Study = Callable[[np.random.Generator], tuple[Interval, float]]

DIFFERENCES = {
    "normal": (lambda rng, n: rng.normal(0.2, 1, n), 0.2),
    "gamma, skewness 1.4": (lambda rng, n: rng.gamma(2, 1, n), 2.0),
    "exponential, skewness 2": (lambda rng, n: rng.exponential(1, n), 1.0),
    "lognormal, skewness 6.2": (lambda rng, n: rng.lognormal(0, 1, n), np.exp(0.5)),
    "Student t of 3, heavy tails": (lambda rng, n: rng.standard_t(3, n), 0.0),
    "normal, 70 % zeros": (lambda rng, n: rng.normal(0.5, 1, n) * (rng.random(n) < 0.3), 0.15),
}


def _paired(n, draw, truth, method=None) -> Study:
    """With a `method` of scipy, the alternative that was not chosen."""

    def study(rng):
        differences = draw(rng, n)
        if method is None:
            return paired_bootstrap(differences, np.zeros(n), seed=int(rng.integers(2**32))), truth
        result = stats.bootstrap((differences,), np.mean, n_resamples=2000, method=method, rng=rng)
        return Interval(differences.mean(), *result.confidence_interval), truth

    return study


def _wilson(total) -> Study:
    """Averaged over shares, since at any one share the coverage jumps with it."""

    def study(rng):
        truth = rng.uniform(0.5, 0.95)
        return wilson(rng.binomial(total, truth), total), truth

    return study


def _win_rate(n, ties) -> Study:
    """`ties` is the share of ties; 70 % of the rest are wins."""
    shares = [(1 - ties) * 0.3, ties, (1 - ties) * 0.7]

    def study(rng):
        return win_rate(rng.choice([-1, 0, 1], size=n, p=shares)), shares[2] + shares[1] / 2

    return study


def _pairwise_agreement(n, ties) -> Study:
    """Three raters find the better of each pair with 60 %, a tie with 25 %, the worse with 15 %."""
    truth = 0.6**2 + 0.15**2 + 0.25**2 if ties == "count" else (0.6**2 + 0.15**2) / 0.75**2

    def study(rng):
        better = rng.choice([-1, 1], size=n)
        verdicts = better * rng.choice([1, 0, -1], size=(3, n), p=[0.6, 0.25, 0.15])
        return pairwise_agreement(verdicts, ties=ties, seed=int(rng.integers(2**32))), truth

    return study


def _alpha(n, accuracy) -> Study:
    """Three raters tell two equally frequent values apart with `accuracy`."""
    truth = 1 - 4 * accuracy * (1 - accuracy)

    def study(rng):
        values = rng.integers(2, size=n)
        ratings = np.where(rng.random((3, n)) < accuracy, values, 1 - values)
        return alpha_interval(ratings, num_resamples=500, seed=int(rng.integers(2**32))), truth

    return study


STUDIES: dict[tuple[str, str], Study] = {
    **{
        ("paired_bootstrap", f"n={n}, {name}"): _paired(n, *law)
        for n in (256, 64, 16)
        for name, law in DIFFERENCES.items()
    },
    **{
        (f"({method})", f"n=64, {name}"): _paired(64, *law, method)
        for method in ("percentile", "BCa")
        for name, law in DIFFERENCES.items()
    },
    **{("wilson", f"n={n}, shares 50 to 95 %"): _wilson(n) for n in (20, 400)},
    **{("win_rate", f"n=64, {ties} % ties"): _win_rate(64, ties / 100) for ties in (0, 30, 50, 80, 95)},
    **{("pairwise_agreement", f"n=64, ties={ties}"): _pairwise_agreement(64, ties) for ties in ("count", "drop")},
    ("alpha_interval", "n=64, two values"): _alpha(64, 0.85),
}


def coverage(study: Study, num_studies: int, seed: int = 0) -> float:
    """Share of `num_studies` simulated studies whose interval holds the truth."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(num_studies):
        interval, truth = study(rng)
        held += interval.low <= truth <= interval.high
    return held / num_studies


def main(arguments: list[str] | None = None) -> int:
    """Print the table of coverages in Markdown; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per row (default 2000)")
    return run(_print_table, parser, arguments)


def _print_table(options):
    num_studies = options.studies
    check_count("studies", num_studies, minimum=1)
    rows = [(*name, coverage(study, num_studies)) for name, study in tqdm(STUDIES.items(), delay=5)]
    error = 100 * np.sqrt(0.95 * 0.05 / num_studies)
    print(f"{num_studies} simulated studies a row; standard error near 95 %: {error:.1f} points. (…): not chosen.\n")
    print(table(["interval", "setting", "coverage %"], [[*name, f"{100 * share:.1f}"] for *name, share in rows]))


if __name__ == "__main__":
    sys.exit(main())
