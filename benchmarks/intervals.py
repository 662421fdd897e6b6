"""Simulate studies: how often the intervals contain the truth, one of equal methods is named better, and a verdict is
given.

python benchmarks/intervals.py [--repeats 1000]

A study has four methods of equal accuracy, or of the accuracies of a usual study, and a fifth one. All models answer
the same examples. An answer is right if

    level + difficulty of the example + effect of the method on the example + effect of the seed + noise > 0

The difficulties are standard normal, and the other effects are normal with the deviations below. A loss per token is a
sum of such terms, with skewed effects of the examples. With one seed the truth is that of the trained models. With
several it is the mean over all seeds and examples.

The intervals are those of the analysis, which pools the seeds over the cells (statistics.py), and three others:

    examples only    as if there were one seed
    square-and-add   combines it with Student's interval over the cell's own seeds (Newcombe, Statistics in Medicine 17,
                     1998)
    known            as the analysis, if it knew the variance between seeds
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
import pandas as pd
from bench import report
from scipy import stats
from sparseft.analysis.statistics import LEVEL, Scores, Spread, compare, holm, interval, pooled_spread
from sparseft.common.command import run
from statsmodels.stats.proportion import proportion_confint

# Of what is measured, the accuracies of the five methods, or None for losses. The first four are equal, or those of a
# usual study.
KINDS = [("accuracy", (level, level, level, level, level - 0.05)) for level in (0.25, 0.5, 0.7, 0.97)]
KINDS += [
    ("accuracy of 1", (1, 1, 1, 1, 0.95)),
    ("accuracy, unequal cells", (0.7, 0.97, 0.5, 0.25, 0.65)),
    ("loss", None),
]
EXAMPLES = (60, 200, 1000)
SEEDS = (1, 2, 3, 5)
# Deviations of the accuracy between seeds, of a method with an accuracy of 0.5. That of losses, in nats, is twice as
# large.
DEVIATIONS = (0.0, 0.01, 0.03, 0.06)
METHODS = 5
EQUAL = 4
# Over how many cells the variation between seeds is pooled.
POOLS = (1, 2, EQUAL)
# Deviations of the effect of a method on an example, and of the noise of a seed on an example. Two seeds of one method
# then agree in about 80 % of the answers.
OF_METHOD = 0.4
OF_NOISE = 0.4
OF_ANSWER = np.sqrt(1 + OF_METHOD**2 + OF_NOISE**2)
LONGEST_ANSWER = 12
MEAN_LOSS = 2.0
NOMINAL = 1 - LEVEL
RANDOM_SEED = 0
# How many trainings two equal modes have. Half of the examples are for the selection.
TRAININGS = ((1, 1), (9, 1), (5, 5))
CHOICE_SEEDS = (0, 1, 2)
# The differences that are measured, with the number of the method that the first one is compared with.
DIFFERENCES = {
    "accuracy": {"difference of 0": 1, "difference of 0.05": EQUAL},
    "accuracy, unequal cells": {"difference, unequal cells": 1},
    "accuracy of 1": {},
    "loss": {"difference of losses": 1},
}
# The numbers that are measured, in the order of the tables, and those that are in the table by seeds.
USUAL = ("accuracy", "difference of 0", "difference, unequal cells", "difference of losses")
NUMBERS = (*USUAL, "loss", "difference of 0.05", "accuracy, unequal cells", "accuracy of 1")
WAYS = ("examples only", "square-and-add", "pooled", "known")


@dataclass(frozen=True)
class Design:
    """Hold the size of a study, and the true accuracies of its methods."""

    kind: str
    accuracies: tuple[float, ...] | None
    examples: int
    deviation: float


CHOICE = Design("accuracy", (0.7,), 800, 0.01)
# Studies whose verdicts are counted: accuracies of the better methods, examples, and deviations between seeds.
LEVELS = (0.5, 0.7, 0.9)
POWER_EXAMPLES = (64, 256)
POWER_DEVIATIONS = (0.0, 0.01, 0.03)
LOST = 0.05
TOLERANCE = 0.02
JUDGED = 12


@dataclass(frozen=True)
class Studies:
    """Hold repeated studies: values, (repeats, methods, seeds, examples), and the true means of the methods and of the
    models."""

    values: np.ndarray
    methods: np.ndarray
    models: np.ndarray
    tokens: np.ndarray | None = None

    @cached_property
    def cells(self) -> dict[int, list[Scores]]:
        """Return the cells by their number of seeds."""
        return {
            seeds: [
                Scores(self.values[:, method, :seeds], tuple(range(seeds)), self.tokens) for method in range(METHODS)
            ]
            for seeds in SEEDS
        }

    @cached_property
    def spreads(self) -> dict[tuple[int, int], Spread]:
        """Return the pooled variation between seeds, by the number of seeds and of cells."""
        return {(seeds, pool): pooled_spread(self.cells[seeds][:pool]) for seeds in SEEDS for pool in POOLS}

    def known(self, seeds: int) -> Spread:
        """Return the true variation between seeds, as a share of the variance of an answer."""
        if seeds == 1:
            return Spread()
        variance = np.mean([cell.variance for cell in self.cells[seeds]])
        return Spread(self.models.var(axis=(0, 2)).mean() / variance, 0.0, np.inf)

    def truths(self, seeds: int) -> np.ndarray:
        """Return the truth of each cell, (methods, repeats): that of its model if there is one seed."""
        return (self.models[..., 0] if seeds == 1 else np.broadcast_to(self.methods, self.models.shape[:2])).T


def simulate(random: np.random.Generator, design: Design, repeats: int) -> Studies:
    """Return repeated studies of a design."""
    shape = (repeats, len(design.accuracies or range(METHODS)), max(SEEDS), design.examples)
    sizes = [(repeats, 1, 1, shape[3]), (*shape[:2], 1, shape[3]), (*shape[:3], 1), shape]
    difficulty, method, seed, noise = (random.standard_normal(size, np.float32) for size in sizes)
    effects = OF_METHOD * method + OF_NOISE * noise
    if design.accuracies is None:
        tokens = random.integers(1, LONGEST_ANSWER, design.examples)
        of_model = MEAN_LOSS + 2 * design.deviation * seed
        # A squared normal number is skewed, with the mean 1.
        values = tokens * (of_model + difficulty**2 - 1 + effects).astype(float)
        return Studies(values, np.full(METHODS, MEAN_LOSS), of_model[..., 0], tokens)
    deviation = design.deviation / stats.norm.pdf(0) * OF_ANSWER
    level = stats.norm.ppf(design.accuracies) * np.hypot(OF_ANSWER, deviation)
    of_model = level[:, np.newaxis, np.newaxis] + deviation * seed
    right = (of_model + difficulty + effects > 0).astype(float)
    return Studies(right, np.array(design.accuracies), stats.norm.cdf(of_model[..., 0] / OF_ANSWER))


def measure(studies: Studies, design: Design) -> Iterator[dict]:
    """Yield the coverage and the width of the intervals of a value and of differences, by seeds and by cells in the
    pool."""
    others = DIFFERENCES[design.kind]
    for seeds in SEEDS:
        cells, truths, known = studies.cells[seeds], studies.truths(seeds), studies.known(seeds)
        size = {"seeds": seeds, "examples": design.examples, "deviation": design.deviation}
        for pool in POOLS:
            spread = studies.spreads[seeds, pool]
            ends = _value_ends(cells[0], spread, known)
            yield {"number": design.kind, "cells": pool, **size, **_quality(ends, truths[0])}
            for name, other in others.items() if pool > 1 else ():
                ends = _difference_ends(cells[0], cells[other], spread, known)
                yield {"number": name, "cells": pool, **size, **_quality(ends, truths[0] - truths[other])}


def _value_ends(cell: Scores, spread: Spread, known: Spread) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the ends of the intervals of a cell in each way. `known` is the true variation between seeds."""
    examples = cell.values.shape[-1]
    if cell.tokens is None:
        low, high = proportion_confint(cell.value * examples, examples, NOMINAL, "wilson")
        # At 0 and 1 the value itself is an end, but for rounding.
        of_examples = np.minimum(low, cell.value), np.maximum(high, cell.value)
    else:
        of_examples = interval(cell, Spread())
    combined = _square_and_add(cell.answers, *of_examples)
    return [of_examples, combined, interval(cell, spread), interval(cell, known)]


def _difference_ends(
    ours: Scores, theirs: Scores, spread: Spread, known: Spread
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the ends of the intervals of a difference in each way. `known` is the true variation between seeds."""
    of_examples = compare(ours, theirs, Spread())[1:3]
    combined = _square_and_add(ours.answers - theirs.answers, *of_examples)
    return [of_examples, combined, compare(ours, theirs, spread)[1:3], compare(ours, theirs, known)[1:3]]


def _square_and_add(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an interval over the examples combined with Student's over the seeds of (repeats, seeds, examples)."""
    by_seed = values.mean(axis=-1)
    seeds = by_seed.shape[-1]
    if seeds == 1:
        return low, high
    mean = by_seed.mean(axis=-1)
    of_seeds = stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * stats.sem(by_seed, axis=-1)
    return mean - np.hypot(of_seeds, mean - low), mean + np.hypot(of_seeds, high - mean)


def _quality(ends: list[tuple[np.ndarray, np.ndarray]], truth: np.ndarray) -> dict[str, float]:
    """Return the coverage in percent and the mean width in each way."""
    coverage = {
        f"{way}: coverage": 100 * ((low <= truth) & (truth <= high)).mean()
        for way, (low, high) in zip(WAYS, ends, strict=True)
    }
    return coverage | {f"{way}: width": (high - low).mean() for way, (low, high) in zip(WAYS, ends, strict=True)}


def false_winners(studies: Studies) -> Iterator[tuple[int, float]]:
    """Yield for each number of seeds the share of studies, in percent, with a significant difference of the equal
    methods."""
    for seeds in SEEDS:
        pairs = combinations(studies.cells[seeds][:EQUAL], 2)
        p_values = [compare(ours, theirs, studies.spreads[seeds, EQUAL]).p_value for ours, theirs in pairs]
        # Holm's correction multiplies the smallest p by the number of tests.
        yield seeds, 100 * (np.min(p_values, axis=0) * len(p_values) < NOMINAL).mean()


def false_choices(random: np.random.Generator, trainings: tuple[int, int], repeats: int) -> dict[str, float]:
    """Return the share of studies, in percent, in which one of two equal modes is significantly better, by what chose
    its training.

    Each mode has several trainings, and its best one is compared on the validation examples."""
    values = simulate(random, replace(CHOICE, accuracies=CHOICE.accuracies * sum(trainings)), repeats).values
    validation, selection = np.split(values[:, :, : len(CHOICE_SEEDS)], 2, axis=-1)
    shares = {}
    for name, chosen_by in (("validation", validation), ("selection", selection)):
        modes = [
            Scores(answers[range(repeats), scores.mean(axis=(-2, -1)).argmax(axis=1)], CHOICE_SEEDS)
            for answers, scores in zip(
                *(np.split(part, trainings[:1], axis=1) for part in (validation, chosen_by)), strict=True
            )
        ]
        shares[name] = 100 * (compare(*modes, pooled_spread(modes)).p_value < NOMINAL).mean()
    return shares


def verdicts(random: np.random.Generator, design: Design, seeds: int, repeats: int) -> tuple[float, float, float]:
    """Return the shares of studies, in percent, with the verdict on a true difference, and with a false "within".

    The study of the first share has four methods, and Holm's correction over their pairs. The last method is worse by
    LOST. That of the others has JUDGED cells whose loss is just the tolerance: a given one, or any of them, is
    called within."""
    (level,) = design.accuracies
    cells = _cells(random, replace(design, accuracies=(*[level] * (EQUAL - 1), level - LOST)), seeds, repeats)
    pairs, spread = list(combinations(range(EQUAL), 2)), pooled_spread(cells)
    p_values = np.array([compare(cells[ours], cells[theirs], spread).p_value for ours, theirs in pairs])
    adjusted = np.apply_along_axis(holm, 0, p_values)
    found = adjusted[pairs.index((0, EQUAL - 1))] < NOMINAL
    dense, *cells = _cells(random, replace(design, accuracies=(level, *[level - TOLERANCE] * JUDGED)), seeds, repeats)
    spread = pooled_spread([dense, *cells])
    within = np.array([compare(cell, dense, spread).difference_low > -TOLERANCE for cell in cells])
    return 100 * found.mean(), 100 * within.mean(), 100 * within.any(axis=0).mean()


def _cells(random: np.random.Generator, design: Design, seeds: int, repeats: int) -> list[Scores]:
    """Return the cells of repeated studies, one per method."""
    values = simulate(random, design, repeats).values[:, :, :seeds]
    return [Scores(values[:, method], tuple(range(seeds))) for method in range(values.shape[1])]


def report_verdicts(repeats: int) -> None:
    """Simulate how often a true difference gets a verdict, and how often a loss of the tolerance is called within."""
    random = np.random.default_rng(RANDOM_SEED)
    # statsmodels collects garbage in every correction.
    gc.freeze()
    rows = []
    for seeds, examples in product((2, 3), POWER_EXAMPLES):
        designs = [Design("accuracy", (level,), examples, one) for level, one in product(LEVELS, POWER_DEVIATIONS)]
        shares = np.array([verdicts(random, design, seeds, repeats) for design in designs])
        lows, highs = shares.min(axis=0), shares.max(axis=0)
        rows.append([str(seeds), str(examples), *(f"{a:.1f} to {b:.1f}" for a, b in zip(lows, highs, strict=True))])
    conditions = [
        f"{repeats} studies per design; accuracies {', '.join(map(str, LEVELS))};"
        f" deviations between seeds {', '.join(map(str, POWER_DEVIATIONS))}",
        f"verdict: two of {EQUAL} methods whose accuracies differ by {LOST}, with Holm's correction over the pairs",
        f"within: the accuracy is {TOLERANCE} below dense, which is the tolerance, in each of {JUDGED} cells",
        "shares in percent: the lowest and the highest over the designs of a row",
    ]
    header = [
        "seeds",
        "examples",
        "verdict on a true difference",
        "a cell falsely within",
        f"any of {JUDGED} falsely within",
    ]
    report("verdicts", "How often a study gives a verdict", conditions, header, rows)


def coverage_table(rows: pd.DataFrame, by: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: the mean coverage, the lowest one in brackets, and the mean width."""
    groups = rows.groupby(by, sort=False)
    columns = {key: [str(value) for value in groups.first().reset_index()[key]] for key in by}
    for way in WAYS[:-1]:
        mean, low = groups[f"{way}: coverage"].mean(), groups[f"{way}: coverage"].min()
        columns[f"{way}: coverage"] = [f"{a:.1f} ({b:.1f})" for a, b in zip(mean, low, strict=True)]
    for way in WAYS[1:]:
        columns[f"{way}: width"] = [f"{width:.3f}" for width in groups[f"{way}: width"].mean()]
    table = pd.DataFrame(columns)
    return list(table), table.to_numpy().tolist()


def winners_table(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: the mean share of false winners, and the highest one in brackets."""
    table = rows.pivot_table("share", ["seeds", "examples"], "deviation", aggfunc=["mean", "max"])
    header = ["seeds", "examples", *(f"deviation {deviation:g}" for deviation in DEVIATIONS)]
    return header, [
        [*map(str, key), *(f"{row['mean', one]:.1f} ({row['max', one]:.1f})" for one in DEVIATIONS)]
        for key, row in table.iterrows()
    ]


def main(*, repeats: int = 1000) -> None:
    """Simulate the designs and write the tables.

    Args:
        repeats: studies per design
    """
    random = np.random.default_rng(RANDOM_SEED)
    rows, winners = [], []
    for (kind, accuracies), examples, deviation in product(KINDS, EXAMPLES, DEVIATIONS):
        design = Design(kind, accuracies, examples, deviation)
        studies = simulate(random, design, repeats)
        rows += measure(studies, design)
        if kind in ("accuracy", "loss"):
            size = {"examples": examples, "deviation": deviation}
            winners += [{**size, "seeds": seeds, "share": share} for seeds, share in false_winners(studies)]
    rows = pd.DataFrame(rows).sort_values("number", key=lambda names: names.map(NUMBERS.index), kind="stable")
    error = 100 * np.sqrt(NOMINAL * LEVEL / repeats)
    conditions = [
        f"{repeats} studies per design; a share of 95 % or 5 % has a standard error of {error:.1f} percentage points",
        f"{', '.join(map(str, EXAMPLES))} examples; deviations between seeds {', '.join(map(str, DEVIATIONS))}",
        "shares in percent: the mean over the designs of a row, and the worst design in brackets",
    ]
    by_seeds = coverage_table(rows[rows["cells"].eq(EQUAL) & rows["number"].isin(USUAL)], ["number", "seeds"])
    report("coverage", f"Coverage of 95 % intervals, {EQUAL} cells", conditions, *by_seeds)
    by_size = coverage_table(rows, ["number", "cells", "seeds", "examples"])
    report("coverage_by_size", "Coverage of 95 % intervals, by size", conditions, *by_size)
    title = f"Studies with a false winner among {EQUAL} equal methods"
    report("false_winners", title, conditions, *winners_table(pd.DataFrame(winners)))
    report_choices(repeats)
    report_verdicts(repeats)


def report_choices(repeats: int) -> None:
    """Simulate the choice of a training and write its table."""
    random = np.random.default_rng(RANDOM_SEED)
    shares = {trainings: false_choices(random, trainings, repeats) for trainings in TRAININGS}
    conditions = [
        f"{repeats} studies per row; {CHOICE.examples // 2} validation and as many selection examples",
        f"accuracy {CHOICE.accuracies[0]}, {len(CHOICE_SEEDS)} seeds, deviation between seeds {CHOICE.deviation}",
    ]
    header = ["trainings of the two modes", "chosen by the validation examples", "chosen by the selection examples"]
    rows = [
        [f"{ours} and {theirs}", *(f"{share:.1f} %" for share in of_row.values())]
        for (ours, theirs), of_row in shares.items()
    ]
    report("false_choices", "Studies in which one of two equal modes seems better", conditions, header, rows)


if __name__ == "__main__":
    run(main)
