"""Intervals and tests, each of them scipy's or statsmodels'; every interval is one of 95 %.

A mean over seeds has two sources of variation: the seeds, and the examples, which all seeds share. Two seeds that agree by
chance would give an interval without width, so the one that is reported covers both (`union_interval`).

Two models are compared over the same examples, pair by pair: McNemar's exact test (Psychometrika 12, 1947), and the
percentile bootstrap of the mean difference. Resampling outcomes that hardly ever differ hardly ever meets a difference,
and the interval comes out too narrow, without any width for two runs that agree on all examples. As Bonett and Price
propose for Wald's interval (JEBS 37, 2012, section 3) two examples are added, one that only the first model has right
and one that only the second has.

Of losses the interval is the paired percentile bootstrap as it is, and the test Student's paired t: a bootstrap's p is
never below one over its resamples, which Holm's correction would multiply by the size of the family.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
RESAMPLES = 2000  # the ends are known to a few hundredths of the interval's width
SEED = 0
AT_ONCE = 2**22  # resampled differences in memory, 32 MB
WITHIN, BEYOND, UNDECIDED = "within tolerance", "beyond tolerance", "undecided"


def t_interval(mean: np.ndarray, error: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Student's interval of means with standard errors `error` of `n` values each; NaN for one value.

    Equal values have no width: the ends are the mean."""
    mean, error, degrees = (np.asarray(each, float) for each in (mean, error, np.asarray(n) - 1))
    with np.errstate(invalid="ignore"):  # one value has no degrees of freedom
        ends = stats.t.interval(LEVEL, np.where(degrees > 0, degrees, np.nan), mean, error)
    return tuple(np.where(error == 0, mean, end) for end in ends)


def proportion_interval(value: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's score intervals (JASA 22, 1927) of shares of `examples`, which may be 0 or 1.

    The mean share over several models on the same examples is given the interval of one model: it can only be too wide."""
    value, examples = np.asarray(value, float), np.asarray(examples, float)
    low, high = proportion_confint(value * examples, examples, alpha=1 - LEVEL, method="wilson")
    return np.minimum(low, value), np.maximum(high, value)  # rounding: at 0 and 1 the value itself is an end


def ratio_error(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Return the standard error of sums.sum() / tokens.sum() over the examples, (examples,) each.

    It is the linearised one of a ratio (Cochran, Sampling Techniques, 1977, section 6.5)."""
    examples = len(sums)
    residuals = sums - sums.sum() / tokens.sum() * tokens
    return float(np.sqrt(examples / (examples - 1) * np.square(residuals).sum()) / tokens.sum())


def union_interval(
    seeds: tuple[np.ndarray, np.ndarray], examples: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and source of the interval that covers two others, over the seeds and over the examples.

    An end that is NaN does not count: one seed has no interval of its own. The source is "seeds", "examples" or "both"."""
    low, high = np.fmin(seeds[0], examples[0]), np.fmax(seeds[1], examples[1])
    from_seeds = (low == seeds[0]) & (high == seeds[1])
    from_examples = (low == examples[0]) & (high == examples[1])
    source = np.select([from_examples, from_seeds, ~np.isnan(low)], ["examples", "seeds", "both"], "")
    return low, high, source


def mcnemar_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p of McNemar's exact test; outcomes 0 or 1, (examples,) each, of the same examples in the same order."""
    table = np.bincount((2 * ours + theirs).astype(int), minlength=4).reshape(2, 2)
    return float(mcnemar(table, exact=True).pvalue)


def difference_intervals(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals of means of paired differences, fractions between -1 and 1, (..., examples); seeded.

    Each is the interval that it would have alone: the same examples are drawn for all."""
    added = np.broadcast_to([-1.0, 1.0], (*differences.shape[:-1], 2))
    return _bootstrap((np.concatenate([differences, added], axis=-1),), np.mean)


def loss_intervals(differences: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals of sum(differences) / sum(tokens): paired differences of losses, nats, (..., examples), and
    the answers' lengths, (examples,); seeded, the same examples for all."""
    whole = np.broadcast_to(tokens, differences.shape)
    return _bootstrap((differences, whole), lambda loss, count, axis: loss.sum(axis) / count.sum(axis))


def paired_t_p(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p of Student's paired t tests, (...) of (..., examples); 1 where the two never differ.

    NaN where all differences are equal but for rounding: they have no variance to test with."""
    differ = differences.any(axis=-1)
    spread = np.ptp(differences, axis=-1) > 1e-9 * np.abs(differences).max(axis=-1, initial=0)
    found = np.where(differ, np.nan, 1.0)
    found[differ & spread] = stats.ttest_1samp(differences[differ & spread], 0, axis=-1).pvalue
    return found


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p of a family, (tests,); NaN where there was no test, which does not count."""
    p_values = np.asarray(p_values, float)
    adjusted, tested = np.full(p_values.shape, np.nan), ~np.isnan(p_values)
    if tested.any():
        adjusted[tested] = multipletests(p_values[tested], method="holm")[1]
    return adjusted


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of a statistic of samples, (..., examples), that are resampled together."""
    found = stats.bootstrap(
        samples, statistic, axis=-1, paired=True, vectorized=True, n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // samples[0].size), confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def verdict(low: float, high: float, tolerance: float) -> str | None:
    """Of a difference to dense with this interval: non-inferior where all of it lies above -tolerance (a fraction).

    None where there is no interval."""
    if np.isnan(low):
        return None
    return WITHIN if low > -tolerance else BEYOND if high < -tolerance else UNDECIDED
