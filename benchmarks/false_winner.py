"""Simulate studies in which two modes do not differ, and count how often one of them is declared the winner.

python benchmarks/false_winner.py

Each mode is trained with several trainings and seeds. All of them answer the same examples. An answer is right if

    level + difficulty of the example + effect of the training on the example + effect of the seed + noise > 0

The difficulties are standard normal. The other effects are normal with the deviations below, and drawn anew for each mode, so
both modes have the same accuracy over all examples and seeds. The choice of a training, the tests and the intervals are those of
the analysis (tuning.py, comparisons.py, statistics.py). What is compared with them is defined here.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from bench import report
from scipy import stats
from sparseft.analysis.comparisons import CellScores, Pair, compare_pairs, correct
from sparseft.analysis.scores import Scores
from sparseft.analysis.statistics import LEVEL, combined_interval, difference_intervals, paired_t_p, t_interval
from sparseft.analysis.tuning import Selected, Trial, best
from sparseft.study.grid import Cell
from sparseft.tasks.metrics import ACC

# The accuracy of every model is about 0.64.
ACCURACY_LEVEL = 0.4
# Deviations of the effect of a training on an example, and of the noise of a seed on an example. Two seeds of one training then
# agree in about 80 % of the answers, and two modes in about 76 %.
TRAINING_DEVIATION = 0.4
NOISE_DEVIATION = 0.4
# Change of the accuracy when the level changes by 1: the normal density of the level, over the deviation of all terms.
SLOPE = stats.norm.pdf(ACCURACY_LEVEL, scale=np.sqrt(1 + TRAINING_DEVIATION**2 + NOISE_DEVIATION**2))
NOMINAL = 0.05
# Resamples of the two-level bootstrap.
RESAMPLES = 1000
# The rule of two seeds was chosen after rows with one seed, of the random seeds 0 and 1, were known. The rows with several seeds
# took no part in it.
RANDOM_SEED = 1


@dataclass(frozen=True)
class Design:
    """Hold the sizes of the simulated studies. `seed_deviation` is that of the accuracy between seeds."""

    trainings: tuple[int, int]
    seeds: int
    seed_deviation: float
    validation: int = 400
    selection: int = 400
    studies: int = 1000


@dataclass(frozen=True)
class Mode:
    """Hold the answers of one mode on both splits, (trainings, seeds, examples), each 0 or 1."""

    validation: np.ndarray
    selection: np.ndarray


def simulate(design: Design) -> Iterator[tuple[Mode, Mode]]:
    """Yield the two modes of each study. The random numbers are those of RANDOM_SEED."""
    random = np.random.default_rng(RANDOM_SEED)
    examples = design.validation + design.selection
    for _ in range(design.studies):
        difficulty = random.standard_normal(examples)
        yield tuple(_mode(random, design, trainings, difficulty) for trainings in design.trainings)


def _mode(random: np.random.Generator, design: Design, trainings: int, difficulty: np.ndarray) -> Mode:
    """Return the answers of a mode with a number of trainings."""
    of_training = TRAINING_DEVIATION * random.standard_normal((trainings, 1, len(difficulty)))
    of_seed = design.seed_deviation / SLOPE * random.standard_normal((trainings, design.seeds, 1))
    noise = NOISE_DEVIATION * random.standard_normal((trainings, design.seeds, len(difficulty)))
    answers = (ACCURACY_LEVEL + difficulty + of_training + of_seed + noise > 0).astype(float)
    return Mode(answers[..., : design.validation], answers[..., design.validation :])


def choose(answers: np.ndarray) -> int:
    """Return the number of the training that the analysis chooses by these answers, (trainings, seeds, examples)."""
    trials = [Trial(str(number), (), _selected(members)) for number, members in enumerate(answers)]
    return int(best(trials).training)


def _selected(answers: np.ndarray) -> Selected:
    """Return the result of a training from its answers, (seeds, examples). All losses are equal."""
    return Selected(ACC.name, float(answers.mean()), 0.0, 0.0, answers.shape[-1])


def decide(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return whether the analysis calls the difference of each pair of modes significant; answers are (seeds, examples)."""
    compared = [
        Pair(
            "modes",
            _scores(f"study{number}", "sparse_to_sparse", ours),
            _scores(f"study{number}", "sparse_to_dense", theirs),
        )
        for number, (ours, theirs) in enumerate(pairs)
    ]
    # Each study is a model of its own, and so a family of its own.
    return correct(compare_pairs(compared))["significant"].to_numpy(bool)


def _scores(model: str, mode: str, answers: np.ndarray) -> CellScores:
    """Return the scores of a cell by seed."""
    examples = answers.shape[-1]
    by_seed = {seed: Scores(ACC.name, examples, ("the same",), row) for seed, row in enumerate(answers)}
    return CellScores(Cell(model, "task", "unstructured", 50, mode), 0.5, by_seed)


def false_winners(design: Design) -> dict[str, float]:
    """Return the share of studies with a winner, by what the training is chosen by and by the test."""
    on_validation, on_selection = [], []
    for modes in simulate(design):
        on_validation.append(tuple(mode.validation[choose(mode.validation)] for mode in modes))
        on_selection.append(tuple(mode.validation[choose(mode.selection)] for mode in modes))
    return {
        "validation, one test": _plain_test(on_validation).mean(),
        "validation, rule of the project": decide(on_validation).mean(),
        "selection, one test": _plain_test(on_selection).mean(),
        "selection, rule of the project": decide(on_selection).mean(),
    }


def _plain_test(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return whether Student's paired t test over the examples, of the means over the seeds, finds a difference."""
    differences = np.array([ours.mean(axis=0) - theirs.mean(axis=0) for ours, theirs in pairs])
    return paired_t_p(differences) < NOMINAL


def coverage(design: Design) -> dict[str, float | None]:
    """Return the share of studies whose interval of the difference contains 0, the true difference, by the interval.

    Each mode has one training."""
    differences = np.array([ours.validation[0] - theirs.validation[0] for ours, theirs in simulate(design)])
    mean = differences.mean(axis=(1, 2))
    examples = difference_intervals(differences.mean(axis=1))
    if design.seeds == 1:
        return {"examples": _covered(*examples)}
    of_pairs = differences.mean(axis=2)
    seeds = t_interval(mean, stats.sem(of_pairs, axis=1), np.full(len(mean), design.seeds))
    low, high, _ = combined_interval(mean, seeds, examples)
    return {
        "examples": _covered(*examples),
        "seeds": _covered(*seeds),
        "the wider of both": _covered(np.minimum(seeds[0], examples[0]), np.maximum(seeds[1], examples[1])),
        "two-level bootstrap": _covered(*_two_level_bootstrap(differences)),
        "mixed model": _covered(*_mixed_model(differences)),
        "combined (the project's)": _covered(low, high),
    }


def _covered(low: np.ndarray, high: np.ndarray) -> float:
    """Return the share of the intervals that contain 0."""
    return float(((low <= 0) & (high >= 0)).mean())


def _two_level_bootstrap(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile intervals of the means of (studies, seeds, examples), drawing seeds and examples independently.

    Owen (Annals of Applied Statistics 1, 2007) calls it the pigeonhole bootstrap."""
    _, seeds, examples = differences.shape
    random = np.random.default_rng(0)
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    drawn_examples = random.multinomial(examples, np.full(examples, 1 / examples), RESAMPLES) / examples
    by_seed = differences @ drawn_examples.T
    means = np.einsum("rs,nsr->nr", drawn_seeds, by_seed)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return low, high


def _mixed_model(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the intervals of the means of (studies, seeds, examples) by a mixed model with crossed seeds and examples.

    The variance is that of a balanced two-way layout, with the degrees of freedom of Hillis (Statistics in Medicine 26, 2007)."""
    _, seeds, examples = differences.shape
    mean = differences.mean(axis=(1, 2), keepdims=True)
    of_seeds = differences.mean(axis=2, keepdims=True)
    of_examples = differences.mean(axis=1, keepdims=True)
    rest = differences - of_seeds - of_examples + mean
    square_of_seeds = examples * of_seeds.var(axis=1, ddof=1)[:, 0]
    square_of_examples = seeds * of_examples.var(axis=2, ddof=1)[:, 0]
    square_of_rest = (rest**2).sum(axis=(1, 2)) / ((seeds - 1) * (examples - 1))
    total = square_of_seeds + np.maximum(square_of_examples - square_of_rest, 0)
    degrees = (seeds - 1) * (total / np.maximum(square_of_seeds, 1e-12)) ** 2
    half_width = stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(total / (seeds * examples))
    return mean[:, 0, 0] - half_width, mean[:, 0, 0] + half_width


WINNERS = [
    Design((1, 1), 1, 0.0),
    Design((3, 3), 1, 0.0),
    Design((9, 9), 1, 0.0),
    Design((9, 1), 1, 0.0),
    Design((1, 1), 1, 0.01),
    Design((9, 1), 1, 0.01),
    Design((3, 3), 2, 0.01),
    Design((9, 1), 2, 0.01),
    Design((3, 3), 3, 0.01),
    Design((9, 9), 3, 0.01),
    Design((9, 1), 3, 0.01),
    Design((9, 1), 5, 0.02),
]
COVERAGES = [Design((1, 1), seeds, deviation) for deviation in (0.0, 0.01, 0.02) for seeds in (1, 2, 3, 5)]


def main() -> None:
    """Simulate the designs and write two tables."""
    # statsmodels collects garbage in every correction, and each study is a family of its own.
    gc.freeze()
    size = replace(WINNERS[0])
    error = np.sqrt(NOMINAL * (1 - NOMINAL) / size.studies)
    conditions = [
        f"{size.studies} studies per row, {size.validation} validation and {size.selection} selection examples",
        f"accuracy about {stats.norm.cdf(ACCURACY_LEVEL / np.sqrt(1 + TRAINING_DEVIATION**2 + NOISE_DEVIATION**2)):.2f}",
        f"a rate of 5 % is measured with a standard error of {100 * error:.1f} percentage points",
    ]
    rows = []
    for design in WINNERS:
        rates = false_winners(design)
        rows.append([*_sizes(design), *(f"{100 * rate:.1f} %" for rate in rates.values())])
    header = ["trainings of the modes", "seeds", "deviation between seeds", *rates]
    report("false_winner", "False winners when two modes do not differ", conditions, header, rows)
    rows = []
    for design in COVERAGES:
        shares = coverage(design)
        rows.append([*_sizes(design)[1:], *shares.values()])
    header = ["seeds", "deviation between seeds", *shares]
    rows = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    rows = [row + ["-"] * (len(header) - len(row)) for row in rows]
    report("interval_coverage", "Coverage of 95 % intervals of a difference", conditions[:2], header, rows)


def _sizes(design: Design) -> list[str]:
    """Return the cells of a row that name a design."""
    ours, theirs = design.trainings
    return [f"{ours} and {theirs}", str(design.seeds), f"{design.seed_deviation:g}"]


if __name__ == "__main__":
    main()
