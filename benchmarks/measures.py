"""Simulate studies of three methods: how often equal ones have a verdict, and which measure finds a true difference.

python benchmarks/measures.py [--repeats 1000]

Nothing is trained. Each method has the value of the same rows, their losses, and the divergence of the same windows:

    a row is right if   level + difficulty of the row + effect of the method on it > 0
    its loss is         mean + skewed effect of the row + effect of the method on it
    a window has        KL * effect of the text * effect of the method on it + noise of the sampled tokens

The mean of log p - log q over T tokens has the variance 2 KL / T if the logarithms are normal. The other deviations
have the size that SmolLM2-135M showed at 10 to 50 %: divergences of windows vary by 25 to 35 %, and the losses of two
methods by 0.26 nats.
"""

import gc
from itertools import combinations, product

import numpy as np
from bench import report
from scipy import stats
from sparseft.analysis.comparisons import MEASURES
from sparseft.analysis.statistics import Scores, Spread, compare, holm, interval
from sparseft.common.command import run
from sparseft.study.planning.power import SIGNIFICANT

METHODS = 3
PAIRS = list(combinations(range(METHODS), 2))
ROWS, WINDOWS = (24, 64, 256), (16, 64)
# The best method, and how much worse the two others are if the methods differ: in accuracy, in nats of loss, as a share
# of KL.
ACCURACY, LOSS, DIVERGENCE = 0.4, 2.5, 1.0
WORSE = (0.05, 0.17, 0.15)
# Deviations of what a method does to a row's latent score, its loss and its divergence; and of what the text does to
# that.
OF_RIGHT, OF_LOSS, OF_WINDOW, OF_TEXT = 0.5, 0.18, 0.1, 0.3
TOKENS = 511
RANDOM_SEED = 0
UNTRAINED = Spread()


def simulate(
    random: np.random.Generator, rows: int, windows: int, repeats: int, is_equal: bool
) -> dict[str, list[Scores]]:
    """Return the scores of each method by each measure, over repeated studies."""
    worse = np.zeros((3, METHODS, 1, 1, 1))
    if not is_equal:
        worse[:, 1:] += np.reshape(WORSE, (3, 1, 1, 1, 1))
    shape = (METHODS, repeats, 1, rows)
    level = stats.norm.ppf(ACCURACY - worse[0]) * np.hypot(1, OF_RIGHT)
    right = level + random.standard_normal(shape[1:]) + OF_RIGHT * random.standard_normal(shape) > 0
    loss = LOSS + worse[1] + random.standard_normal(shape[1:]) ** 2 - 1 + OF_LOSS * random.standard_normal(shape)
    own, text = (
        random.gamma(of**-2, of**2, (count, repeats, 1, windows)) for of, count in ((OF_WINDOW, METHODS), (OF_TEXT, 1))
    )
    mean = DIVERGENCE * (1 + worse[2]) * own * text
    divergence = mean + np.sqrt(2 * mean / TOKENS) * random.standard_normal(mean.shape)
    parts = zip(MEASURES, (right.astype(float), loss, divergence), (None, np.ones(rows), np.ones(windows)), strict=True)
    return {name: [Scores(one, (), tokens) for one in values] for name, values, tokens in parts}


def verdicts(cells: dict[str, list[Scores]]) -> np.ndarray:
    """Return which differences have a verdict, (measures, pairs, studies), with Holm's correction over all tests."""
    p_values = [compare(own[ours], own[theirs], UNTRAINED).p_value for own in cells.values() for ours, theirs in PAIRS]
    return (np.apply_along_axis(holm, 0, p_values) < SIGNIFICANT).reshape(len(cells), len(PAIRS), -1)


def measure(random: np.random.Generator, rows: int, windows: int, repeats: int) -> list[str]:
    """Return a row of the table."""
    equal, unequal = (simulate(random, rows, windows, repeats, is_equal) for is_equal in (True, False))
    low, high = interval(equal[MEASURES[-1]][0], UNTRAINED)
    alone, together = verdicts({MEASURES[0]: equal[MEASURES[0]]}), verdicts(equal)
    found_alone, found = verdicts({MEASURES[0]: unequal[MEASURES[0]]})[:, 0], verdicts(unequal)[:, 0]
    shares = [(low <= DIVERGENCE) & (high >= DIVERGENCE), alone.any(axis=(0, 1)), together.any(axis=(0, 1))]
    shares += [found_alone[0], *found, found.any(axis=0)]
    return [str(rows), str(windows), *(f"{100 * share.mean():.1f}" for share in shares)]


def main(*, repeats: int = 1000) -> None:
    """Simulate the designs and write the table.

    Args:
        repeats: studies per row of the table
    """
    random = np.random.default_rng(RANDOM_SEED)
    # statsmodels collects garbage in every correction.
    gc.freeze()
    table = [measure(random, rows, windows, repeats) for rows, windows in product(ROWS, WINDOWS)]
    conditions = [
        f"{repeats} studies per row of {METHODS} methods; a share of 95 % or 5 % has a standard error of"
        f" {100 * np.sqrt(SIGNIFICANT * (1 - SIGNIFICANT) / repeats):.1f} percentage points",
        f"false winners: equal methods, of accuracy {ACCURACY} and divergence {DIVERGENCE}; any of the"
        f" {len(PAIRS)} pairs has a verdict, with Holm's correction over {len(PAIRS)} tests"
        f" (accuracy only) or {3 * len(PAIRS)} (all)",
        f"found: the share of studies with a verdict on the best method and one that is worse by {WORSE[0]} in"
        f" accuracy, {WORSE[1]} nats in loss and {100 * WORSE[2]:.0f} % in divergence",
        "shares in percent",
    ]
    header = ["rows", "windows", "divergence: coverage", "false winners: accuracy only", "false winners: all"]
    header += [
        "found: accuracy only",
        *(f"found: {name} of all" for name in ("accuracy", "loss", "divergence")),
        "found: any",
    ]
    report("measures", "Deciding by accuracy, loss and divergence", conditions, header, table)


if __name__ == "__main__":
    run(main)
