"""Compare the statistics with scipy and statsmodels where they reduce to theirs, and check their coverage by
simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sparseft.analysis.statistics import Scores, Spread, compare, holm, interval, pooled_spread
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

ONE_SEED = Spread()


def outcomes(random: np.random.Generator, accuracy: float, seeds: int, examples: int, deviation: float = 0.0) -> Scores:
    """Return a trained cell whose accuracy differs between seeds, with a row per seed."""
    accuracies = accuracy + deviation * random.standard_normal((seeds, 1))
    return Scores((random.random((seeds, examples)) < accuracies).astype(float), tuple(range(seeds)))


def losses(random: np.random.Generator, seeds: int, tokens: np.ndarray, deviation: float = 0.0) -> Scores:
    """Return a trained cell with losses of 1 nat per token on average."""
    per_token = random.gamma(2, 0.5, (seeds, len(tokens))) + deviation * random.standard_normal((seeds, 1))
    return Scores(per_token * tokens, tuple(range(seeds)), tokens)


@pytest.mark.parametrize("right", [0, 1, 40, 63, 64])
def test_one_seed_has_wilson_s_interval(right):
    cell = Scores(np.repeat([1.0, 0.0], [right, 64 - right])[np.newaxis], (0,))
    assert interval(cell, ONE_SEED) == pytest.approx(proportion_confint(right, 64, method="wilson"))


def test_one_seed_of_losses_has_student_s_interval_and_test():
    random = np.random.default_rng(0)
    ours, theirs = (losses(random, 1, np.full(40, 4)) for _ in range(2))
    assert interval(ours, ONE_SEED) == pytest.approx(DescrStatsW(ours.values[0] / 4).tconfint_mean())
    difference, low, high, p_value, deviation = compare(ours, theirs, ONE_SEED)
    test = stats.ttest_rel(ours.values[0], theirs.values[0])
    assert p_value == pytest.approx(test.pvalue)
    assert (low, high) == pytest.approx(np.array(test.confidence_interval()) / 4)
    assert difference == pytest.approx((ours.values - theirs.values).mean() / 4)
    assert deviation == pytest.approx((ours.values - theirs.values).std(ddof=1) / 4)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("of_losses", [False, True])
def test_equal_answers_do_not_differ(seeds, of_losses):
    random = np.random.default_rng(6)
    cell = losses(random, seeds, np.full(30, 2)) if of_losses else outcomes(random, 0.5, seeds, 30)
    difference, low, high, p_value, _ = compare(cell, cell, pooled_spread([cell, cell]))
    assert (difference, p_value) == (0, 1)
    assert low <= 0 <= high
    # Equal answers to 30 examples do not prove that all others are equal.
    assert of_losses or high > 0.05


@pytest.mark.parametrize("deviation", [0.0, 0.04])
@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_cover_the_truth(seeds, deviation):
    """Of 600 studies 95 % are 570, with a standard deviation of 5.3."""
    random = np.random.default_rng(13)
    shape = (600, 4, seeds, 200)
    accuracies = 0.6 + deviation * random.standard_normal((*shape[:3], 1))
    easy = random.random((600, 1, 1, 200))
    # Half of the answers depend on the example only.
    shared = random.random((1, 1, 1, 200)) < 0.5
    values = (np.where(shared, easy, random.random(shape)) < accuracies).astype(float)
    cells = [Scores(values[:, cell], tuple(range(seeds))) for cell in range(4)]
    spread = pooled_spread(cells)
    low, high = interval(cells[0], spread)
    _, difference_low, difference_high, p_value, _ = compare(cells[0], cells[1], spread)
    assert 550 <= ((low <= 0.6) & (high >= 0.6)).sum() <= 592
    assert ((difference_low <= 0) & (difference_high >= 0)).sum() >= 550
    assert (p_value < 0.05).sum() <= 50


def test_seeds_widen_the_interval_of_a_trained_cell_only():
    random = np.random.default_rng(7)
    several = [outcomes(random, 0.6, 3, 100, 0.1) for _ in range(3)]
    spread, trained = pooled_spread(several), outcomes(random, 0.6, 1, 100)
    untrained = replace(trained, seeds=())
    assert interval(untrained, spread) == pytest.approx(interval(trained, ONE_SEED))
    assert interval(trained, spread)[0] < interval(untrained, spread)[0]
    assert (pooled_spread([*several, trained, untrained]), pooled_spread([trained, untrained])) == (spread, ONE_SEED)


def test_a_test_that_was_not_made_does_not_count():
    assert holm([0.04, 0.01, np.nan, 0.02]) == pytest.approx([0.04, 0.03, np.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()
