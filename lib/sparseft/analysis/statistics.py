"""Compute intervals, tests and Holm's correction. Every interval is a 95 % confidence interval (docs/statistics.md).

A cell's mean over seeds and examples varies because of both. Its variance is the sum of two parts:

    variance = variance of the examples' means / examples + variance between seeds / seeds

Few seeds do not show how much they vary. So the variance between seeds is pooled over all cells of a model, task and
metric (`pooled_spread`), as a share of the variance of an answer. The degrees of freedom of the sum are Satterthwaite's
(Biometrics Bulletin 2, 1946).

    mean outcome           Wilson's interval for the number of independent answers that has this variance (Dean and
                           Pagano, Journal of Survey Statistics and Methodology 3, 2015), which holds at 0 and 1 too
    mean loss              Student's t interval of the linearised ratio of two sums
    difference             Student's t over pairs of examples; outcomes have two added examples (Bonett and Price,
                           Journal of Educational and Behavioral Statistics 37, 2012, section 3)

The p value of a difference is that of the same t, so the test and the interval agree. benchmarks/intervals.py simulates
them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """Hold what the models of a cell scored, with a row per seed.

    `values`, (..., seeds, examples), are outcomes between 0 and 1. They are losses in nats if `tokens` has the answers'
    lengths, (examples,). Axes before these are independent studies. An untrained cell has one row and no seeds. Two
    cells saw the same examples if `seen` is equal."""

    values: np.ndarray
    seeds: tuple[int, ...] = ()
    tokens: np.ndarray | None = None
    seen: tuple = ()

    @cached_property
    def answers(self) -> np.ndarray:
        """Return the outcomes, or losses per token that are linearised.

        The mean of the linearised losses is the ratio of sums, and their variance is that of the ratio."""
        if self.tokens is None:
            return self.values
        losses = self.values / self.tokens.mean()
        return losses - losses.mean(axis=-1, keepdims=True) * (self.tokens / self.tokens.mean() - 1)

    @cached_property
    def means(self) -> np.ndarray:
        """Return the means over the seeds, (..., examples)."""
        return self.answers.mean(axis=-2)

    @cached_property
    def value(self) -> np.ndarray:
        """Return the mean outcome, or the loss in nats per token, over all seeds and examples."""
        return self.means.mean(axis=-1)

    @cached_property
    def variance(self) -> np.ndarray:
        """Return the variance of the answers of one model, a mean over the seeds."""
        answers = _smoothed(self.answers) if self.tokens is None else self.answers
        return answers.var(axis=-1).mean(axis=-1)

    @property
    def seed_factor(self) -> np.ndarray | float:
        """Return what a pooled share is multiplied by to be the variance of the mean over the seeds."""
        return self.variance / len(self.seeds) if self.seeds else 0.0


class Spread(NamedTuple):
    """Hold how much the seeds of one cell differ, as shares of the variance of an answer.

    `mean_square` is the variance of the seeds' means, `noise` the part of it that single answers explain, and `degrees`
    its degrees of freedom, 0 if no cell has two seeds."""

    mean_square: np.ndarray | float = 0.0
    noise: np.ndarray | float = 0.0
    degrees: int = 0


class Difference(NamedTuple):
    """Hold the difference of two cells, the ends of its interval, its p value, and the standard deviation over the
    examples, without added ones."""

    difference: np.ndarray
    difference_low: np.ndarray
    difference_high: np.ndarray
    p_value: np.ndarray
    deviation: np.ndarray


def pooled_spread(cells: Iterable[Scores]) -> Spread:
    """Return how much seeds differ, pooled over the cells of one model, task and metric that have several seeds.

    Outcomes are pooled as a ratio of sums. So a cell with nearly all answers right, which shows little of the seeds,
    counts less. Losses are pooled as a mean of ratios, because the variances of the cells may lie far apart."""
    several = [cell for cell in cells if len(cell.seeds) > 1 and cell.values.shape[-1] > 1]
    if not several:
        return Spread()
    square, noise = 0.0, 0.0
    unit: np.ndarray | float = 0.0
    for cell in several:
        effects = cell.answers - cell.means[..., np.newaxis, :]
        divisor = 1.0 if cell.tokens is None else cell.variance
        square = square + (effects.mean(axis=-1) ** 2).sum(axis=-1) / divisor
        noise = noise + _squared_error(effects).sum(axis=-1) / divisor
        unit = unit + (len(cell.seeds) - 1) * cell.variance / divisor
    return Spread(square / unit, noise / unit, sum(len(cell.seeds) - 1 for cell in several))


def interval(scores: Scores, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of a cell's value."""
    value, means = scores.value, scores.means
    if scores.tokens is not None:
        variance, degrees = _total(_squared_error(means), means.shape[-1] - 1, scores.seed_factor, spread)
        return _around(value, variance, degrees)
    smoothed = _smoothed(means)
    center = smoothed.mean(axis=-1)
    variance, degrees = _total(smoothed.var(axis=-1) / means.shape[-1], np.inf, scores.seed_factor, spread)
    independent = center * (1 - center) / variance
    # The normal quantile that equals Student's.
    alpha = 2 * stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, degrees))
    low, high = proportion_confint(value * independent, independent, alpha, "wilson")
    # At 0 and 1 the value itself is an end, but for rounding.
    return np.minimum(low, value), np.maximum(high, value)


def compare(ours: Scores, theirs: Scores, spread: Spread) -> Difference:
    """Return the difference of two cells over the same examples in the same order, with its interval and p value."""
    differences = ours.means - theirs.means
    deviation = differences.std(axis=-1, ddof=1)
    if ours.tokens is None:
        differences = _extended(differences, [1, -1])
    center = differences.mean(axis=-1)
    variance, degrees = _total(
        _squared_error(differences), differences.shape[-1] - 1, ours.seed_factor + theirs.seed_factor, spread
    )
    low, high = _around(center, variance, degrees)
    if ours.tokens is None:
        low, high = np.maximum(low, -1), np.minimum(high, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Equal losses have neither a difference nor a variance.
        t = np.where(center == 0, 0, np.abs(center) / np.sqrt(variance))
    return Difference(ours.value - theirs.value, low, high, 2 * stats.t.sf(t, degrees), deviation)


def mean_interval(measurements: ArrayLike) -> tuple[float, float]:
    """Return Student's interval of the mean of independent measurements; NaN for a single one."""
    values = np.asarray(measurements, float)
    return DescrStatsW(values).tconfint_mean(1 - LEVEL) if len(values) > 1 else (np.nan, np.nan)


def mean_columns(name: str, measurements: ArrayLike) -> dict[str, float]:
    """Return the columns of the mean of independent measurements, with the ends of its interval."""
    low, high = mean_interval(measurements)
    return {name: float(np.asarray(measurements, float).mean()), f"{name}_low": low, f"{name}_high": high}


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p of a family, (tests,). A test that is NaN was not made, and does not count."""
    p_values = np.asarray(p_values, float)
    tested = ~np.isnan(p_values)
    adjusted = np.full(p_values.shape, np.nan)
    if tested.any():
        adjusted[tested] = multipletests(p_values[tested], method="holm")[1]
    return adjusted


def _total(
    variance: np.ndarray, degrees: float, seed_factor: np.ndarray | float, spread: Spread
) -> tuple[np.ndarray, np.ndarray | float]:
    """Return the variance of a mean because of its examples and its seeds, and the degrees of freedom."""
    if not spread.degrees:
        return variance, degrees
    total = variance + seed_factor * np.maximum(spread.mean_square - spread.noise, 0)
    of_seeds = (seed_factor * spread.mean_square) ** 2 / spread.degrees
    with np.errstate(divide="ignore", invalid="ignore"):
        of_total = total**2 / (variance**2 / degrees + of_seeds)
    # The subtracted noise is that of other cells too, so it may be too much for this one.
    return total, np.fmax(of_total, min(degrees, spread.degrees))


def _squared_error(values: np.ndarray) -> np.ndarray:
    """Return the variance of the mean of values, (..., examples)."""
    return values.var(axis=-1) / max(values.shape[-1] - 1, 1)


def _around(center: np.ndarray, variance: np.ndarray, degrees: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Student's interval."""
    half_width = stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(variance)
    return center - half_width, center + half_width


def _smoothed(outcomes: np.ndarray) -> np.ndarray:
    """Return outcomes with two right and two wrong answers added, so that equal ones have a variance too."""
    return _extended(outcomes, [0, 0, 1, 1])


def _extended(values: np.ndarray, added: list[float]) -> np.ndarray:
    """Return values, (..., examples), with more of them at the end."""
    return np.concatenate([values, np.broadcast_to(np.array(added, float), (*values.shape[:-1], len(added)))], axis=-1)
