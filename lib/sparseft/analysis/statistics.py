"""Compute intervals and tests, each with scipy or statsmodels. Every interval is a 95 % confidence interval.

A mean over seeds has two sources of variation: the seeds, and the examples, which all seeds share. The interval of a mean over
several seeds combines both (`combined_interval`). It adds the squares of their distances from the mean. Such an interval is
known as square-and-add (Newcombe, Statistics in Medicine 17, 1998; Zou and Donner, Statistics in Medicine 27, 2008). It contains
each of the two, so it is never narrower than the seeds or the examples allow. benchmarks/false_winner.py measures its coverage
beside those of other intervals. A bootstrap that also draws the seeds is too narrow, because three seeds are too few to draw from.

Two models are compared over the same examples, pair by pair, by two methods: McNemar's exact test (Psychometrika 12, 1947), and
the percentile bootstrap of the mean difference. Outcomes that hardly ever differ make the bootstrap's interval too narrow, and
two runs that agree on all examples give it no width. So two examples are added, as Bonett and Price propose for Wald's interval
(JEBS 37, 2012, section 3): one that only the first model has right, and one that only the second has.

Outcomes between 0 and 1 have the same bootstrap, and Student's paired t test instead of McNemar's, which counts zeros and ones.

For losses the interval is the paired percentile bootstrap without added examples, and the test is Student's paired t. The
bootstrap's own p-value would not do: it is never below one over its resamples, and Holm's correction would multiply that by the
size of the family. The ratio of two differences has Fieller's interval (recovery.py).
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
# With so many the ends are known to a few hundredths of the interval's width.
RESAMPLES = 2000
SEED = 0
# Resampled differences in memory, 32 MB.
AT_ONCE = 2**22
WITHIN = "within tolerance"
BEYOND = "beyond tolerance"
UNDECIDED = "undecided"


def t_interval(mean: np.ndarray, error: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Student's interval of means with standard errors `error` of `n` values each; NaN for one value.

    Equal values have no width: the ends are the mean."""
    mean = np.asarray(mean, float)
    error = np.asarray(error, float)
    degrees = np.asarray(n, float) - 1
    # One value has no degrees of freedom.
    with np.errstate(invalid="ignore"):
        low, high = stats.t.interval(LEVEL, np.where(degrees > 0, degrees, np.nan), mean, error)
    return np.where(error == 0, mean, low), np.where(error == 0, mean, high)


def proportion_interval(value: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's score intervals (JASA 22, 1927) of shares of `examples`, which may be 0 or 1.

    The mean share over several models on the same examples gets the interval of one model, which can only be too wide. So can
    the interval of outcomes between 0 and 1, whose variance is at most that of zeros and ones with the same mean."""
    value = np.asarray(value, float)
    examples = np.asarray(examples, float)
    low, high = proportion_confint(value * examples, examples, alpha=1 - LEVEL, method="wilson")
    # At 0 and 1 the value itself is an end, but for rounding.
    return np.minimum(low, value), np.maximum(high, value)


def combined_interval(
    mean: np.ndarray, seeds: tuple[np.ndarray, np.ndarray], examples: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and source of the interval of a mean over seeds, from those over the seeds and over the examples.

    low = mean - sqrt((mean - seeds_low)^2 + (mean - examples_low)^2), and high alike. The interval of one seed, whose ends are
    NaN, is that over the examples. The source is "seeds", "examples" or "seeds and examples"; empty if there is no interval."""
    has_seeds = ~np.isnan(seeds[0])
    has_examples = ~np.isnan(examples[0])
    low = mean - _distance(mean, seeds[0], examples[0])
    high = mean + _distance(mean, seeds[1], examples[1])
    source = np.select(
        [has_seeds & has_examples, has_seeds, has_examples], ["seeds and examples", "seeds", "examples"], ""
    )
    has_interval = has_seeds | has_examples
    return np.where(has_interval, low, np.nan), np.where(has_interval, high, np.nan), source


def _distance(mean: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the root of the sum of the squared distances of two ends from a mean. An end that is NaN does not count."""
    return np.hypot(np.nan_to_num(mean - first), np.nan_to_num(mean - second))


def mcnemar_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the two-sided p of McNemar's exact test of outcomes 0 or 1, (examples,) each, of the same examples in order."""
    table = np.bincount((2 * ours + theirs).astype(int), minlength=4).reshape(2, 2)
    return float(mcnemar(table, exact=True).pvalue)


def outcomes_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the two-sided p of outcomes, (examples,) each, of the same examples in order.

    The test is McNemar's exact test if all outcomes are 0 or 1, and Student's paired t test otherwise."""
    if np.isin([ours, theirs], (0, 1)).all():
        return mcnemar_p(ours, theirs)
    return float(paired_t_p((ours - theirs)[np.newaxis])[0])


def difference_intervals(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals of means of paired differences, fractions between -1 and 1, (..., examples).

    The bootstrap has a fixed seed and draws the same examples for all, so each interval is the one it would have by itself."""
    added = np.broadcast_to([-1.0, 1.0], (*differences.shape[:-1], 2))
    return _bootstrap((np.concatenate([differences, added], axis=-1),), np.mean)


def loss_intervals(differences: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals of sum(differences) / sum(tokens).

    `differences` are paired differences of losses in nats, (..., examples), and `tokens` the answers' lengths, (examples,). The
    bootstrap has a fixed seed and draws the same examples for all."""

    def mean_per_token(loss: np.ndarray, count: np.ndarray, axis: int) -> np.ndarray:
        return loss.sum(axis) / count.sum(axis)

    return _bootstrap((differences, np.broadcast_to(tokens, differences.shape)), mean_per_token)


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """Return the ends of Fieller's interval of mean(numerators) / mean(denominators), (examples,) each, in pairs.

    The ends are NaN if the interval is not bounded, because the denominators' mean does not differ from 0."""
    examples = len(numerators)
    if examples < 2:
        return np.nan, np.nan
    t = stats.t.ppf((1 + LEVEL) / 2, examples - 1)
    means = np.array([numerators.mean(), denominators.mean()])
    # a s^2 - 2 b s + c <= 0 for the shares s in the interval.
    (c, b), (_, a) = np.outer(means, means) - t**2 * np.cov(numerators, denominators) / examples
    if a <= 0:
        return np.nan, np.nan
    # Rounding may make the root of 0 a little negative.
    half_width = np.sqrt(max(b**2 - a * c, 0)) / a
    return b / a - half_width, b / a + half_width


def paired_t_p(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p of Student's paired t tests, (...) of (..., examples); 1 if the two never differ.

    It is NaN if all differences are equal but for rounding, because they have no variance to test with."""
    differ = differences.any(axis=-1)
    spread = np.ptp(differences, axis=-1) > 1e-9 * np.abs(differences).max(axis=-1, initial=0)
    p_values = np.where(differ, np.nan, 1.0)
    testable = differ & spread
    p_values[testable] = stats.ttest_1samp(differences[testable], 0, axis=-1).pvalue
    return p_values


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p of a family, (tests,). A test that is NaN was not made, and does not count."""
    p_values = np.asarray(p_values, float)
    tested = ~np.isnan(p_values)
    adjusted = np.full(p_values.shape, np.nan)
    if tested.any():
        _, adjusted[tested], _, _ = multipletests(p_values[tested], method="holm")
    return adjusted


def verdict(low: float, high: float, tolerance: float) -> str | None:
    """Return the verdict on a difference to dense from the ends of its interval; None without an interval.

    A point is within tolerance (non-inferior) if the whole interval lies above -tolerance, a fraction."""
    if np.isnan(low):
        return None
    if low > -tolerance:
        return WITHIN
    return BEYOND if high < -tolerance else UNDECIDED


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile intervals of a statistic of samples, (..., examples), that are resampled together."""
    result = stats.bootstrap(
        samples,
        statistic,
        axis=-1,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // samples[0].size),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return result.confidence_interval.low, result.confidence_interval.high
