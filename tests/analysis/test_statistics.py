"""Compare the statistics with scipy, statsmodels and textbooks, and check their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats
from sparseft.analysis.statistics import (
    BEYOND,
    UNDECIDED,
    WITHIN,
    combined_interval,
    difference_intervals,
    holm,
    loss_intervals,
    mcnemar_p,
    outcomes_p,
    paired_t_p,
    proportion_interval,
    t_interval,
    verdict,
)
from statsmodels.stats.weightstats import DescrStatsW


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcomes of two models on examples that both, one or neither of them has right."""
    counts = [both, first, second, neither]
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


@pytest.mark.parametrize("counts", [(50, 3, 12, 35), (0, 8, 1, 0), (100, 0, 6, 14)])
def test_mcnemar_is_the_sign_test_of_the_examples_on_which_the_models_differ(counts):
    _, first, second, _ = counts
    assert mcnemar_p(*outcomes(*counts)) == pytest.approx(stats.binomtest(first, first + second).pvalue)


def test_mcnemar_by_hand():
    assert mcnemar_p(*outcomes(9, 5, 0, 6)) == pytest.approx(2 / 2**5)


def test_the_interval_of_means_is_statsmodels():
    values = np.array([0.5, 0.25, 0.7, 0.4])
    ours = t_interval(values.mean(), stats.sem(values), 4)
    assert ours == pytest.approx(DescrStatsW(values).tconfint_mean())
    assert np.isnan(t_interval(0.5, np.nan, 1)).all()
    assert t_interval(0.5, 0.0, 3) == (0.5, 0.5)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04: times 3, 2 and 1; never below the one before. The blank is no test.
    assert holm([0.04, 0.01, np.nan, 0.02]) == pytest.approx([0.04, 0.03, np.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


@pytest.mark.parametrize("examples", [120, 1000])
def test_runs_that_agree_on_all_examples_do_not_differ_and_are_not_proved_equal(examples):
    ours, theirs = outcomes(examples, 0, 0, 0)
    assert mcnemar_p(ours, theirs) == 1
    low, high = difference_intervals(ours - theirs)
    # What an exact interval allows of an event that was never seen: 3.0 % of 120, 0.4 % of 1000.
    unseen = stats.binomtest(0, examples).proportion_ci().high
    assert low < 0 < high
    assert 0.6 * unseen < -low < 1.2 * unseen


@pytest.mark.parametrize("first", [12, 30])
def test_the_bootstrap_and_the_normal_interval_agree_where_both_hold(first):
    ours, theirs = outcomes(500, first, 2 * first, 400)
    differences = ours - theirs
    normal = stats.norm.interval(0.95, differences.mean(), stats.sem(differences))
    assert difference_intervals(differences) == pytest.approx(normal, abs=0.15 * (normal[1] - normal[0]))


@pytest.mark.long
@pytest.mark.parametrize("rates", [(0, 0.005), (0.02, 0.02), (0.01, 0.06), (0.1, 0.3)])
def test_the_interval_covers_the_true_difference(rates):
    """`rates` are the shares of examples that only one model has right. Of 300 studies 95 % are 285, with a deviation of 3.8."""
    rng, truth = np.random.default_rng(1), rates[0] - rates[1]
    shares = [*rates, 1 - sum(rates)]
    studies = [rng.choice([1, -1, 0], 200, p=shares) for _ in range(300)]
    covered = sum(low <= truth <= high for low, high in map(difference_intervals, studies))
    assert covered >= 285 - 3 * 3.8


def test_the_interval_of_losses_is_scipy_s_bootstrap_of_whole_examples():
    rng = np.random.default_rng(2)
    losses, tokens = rng.gamma(2, 1, (2, 150)), rng.integers(1, 9, 150)

    def mean(ours, theirs, count):
        return (ours.sum() - theirs.sum()) / count.sum()

    theirs = stats.bootstrap((*losses, tokens), mean, paired=True, vectorized=False, n_resamples=2000,
                             method="percentile", rng=np.random.default_rng(0)).confidence_interval  # fmt: skip
    assert loss_intervals(losses[0] - losses[1], tokens) == pytest.approx((theirs.low, theirs.high))


def test_of_one_length_the_interval_of_losses_is_the_normal_one():
    differences = np.random.default_rng(3).normal(0.1, 1, 500)
    normal = stats.norm.interval(0.95, differences.mean() / 4, stats.sem(differences) / 4)
    found = loss_intervals(differences, np.full(500, 4))
    assert found == pytest.approx(normal, abs=0.15 * (normal[1] - normal[0]))


@pytest.mark.long
def test_the_interval_of_losses_covers_the_true_difference():
    """Long answers cost more, and the differences are skewed; the truth is 0.1 nats per token."""
    rng, covered = np.random.default_rng(4), 0
    for _ in range(300):
        tokens = rng.integers(1, 9, 120)
        low, high = loss_intervals(tokens * (rng.gamma(2, 0.5, 120) - 0.9), tokens)
        covered += low <= 0.1 <= high
    assert 285 - 4 * 3.8 <= covered <= 285 + 3 * 3.8  # the percentile bootstrap of 120 skewed values is a little narrow


def test_an_interval_among_others_is_what_it_is_alone():
    rng = np.random.default_rng(6)
    outcomes, losses, tokens = rng.choice([-1.0, 0, 1], (3, 90)), rng.normal(size=(3, 90)), rng.integers(1, 9, 90)
    together = [*difference_intervals(outcomes), *loss_intervals(losses, tokens)]
    alone = [
        [*difference_intervals(value), *loss_intervals(loss, tokens)]
        for value, loss in zip(outcomes, losses, strict=True)
    ]
    assert pytest.approx(np.array(alone), rel=1e-12) == np.array(together).T


def test_the_test_of_losses_is_scipy_s_paired_one():
    ours, theirs = np.random.default_rng(5).gamma(2, 1, (2, 40))
    assert paired_t_p(ours - theirs) == stats.ttest_rel(ours, theirs).pvalue
    assert (paired_t_p(ours - ours), loss_intervals(ours - ours, np.ones(40))) == (1, (0, 0))


def test_outcomes_of_0_and_1_have_mcnemar_s_test_and_partial_credit_student_s():
    rng = np.random.default_rng(7)
    ours, theirs = rng.integers(0, 2, (2, 60)).astype(float)
    assert outcomes_p(ours, theirs) == mcnemar_p(ours, theirs)
    # Rounded to integers, all of these would be misses.
    ours, theirs = ours * 0.75, rng.uniform(0, 0.9, 60)
    assert outcomes_p(ours, theirs) == stats.ttest_rel(ours, theirs).pvalue
    assert outcomes_p(ours, ours) == 1


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.4])
def test_wilson_s_interval_is_never_narrower_than_that_of_partial_credit(spread):
    scores = 0.5 + spread * np.tile([-1, 1], 100)
    low, high = proportion_interval(scores.mean(), 200)
    ours = t_interval(scores.mean(), stats.sem(scores), 200)
    assert low < ours[0]
    assert ours[1] < high


def test_a_point_is_within_tolerance_only_if_its_whole_interval_is():
    ends = [(-0.01, 0.03), (-0.02, 0.01), (-0.03, 0.01), (-0.05, -0.03), (0.01, 0.2)]
    assert [verdict(low, high, 0.02) for low, high in ends] == [WITHIN, UNDECIDED, UNDECIDED, BEYOND, WITHIN]
    assert verdict(np.nan, np.nan, 0.02) is None


def test_equal_differences_have_no_variance_to_test_with():
    assert np.isnan(paired_t_p(np.array([[0.001, 0.001, 0.001]]))).all()
    assert paired_t_p(np.zeros((1, 3))).tolist() == [1]


def test_the_distances_of_a_combined_interval_are_the_sides_of_a_right_triangle():
    low, high, source = combined_interval(
        np.array([0.5]), (np.array([0.47]), np.array([0.53])), (np.array([0.46]), np.array([0.62]))
    )
    assert low == pytest.approx(0.45)  # 3, 4 and 5 hundredths
    assert high == pytest.approx(0.5 + (0.03**2 + 0.12**2) ** 0.5)
    assert source == ["seeds and examples"]


def test_a_combined_interval_contains_both_and_one_seed_leaves_that_over_the_examples():
    rng = np.random.default_rng(8)
    mean = rng.uniform(0.2, 0.8, 50)
    seeds = mean - rng.uniform(0, 0.1, 50), mean + rng.uniform(0, 0.1, 50)
    examples = mean - rng.uniform(0, 0.1, 50), mean + rng.uniform(0, 0.1, 50)
    low, high, _ = combined_interval(mean, seeds, examples)
    assert (low <= np.minimum(seeds[0], examples[0])).all()
    assert (high >= np.maximum(seeds[1], examples[1])).all()
    nothing = np.full(50, np.nan)
    low, high, source = combined_interval(mean, (nothing, nothing), examples)
    assert [low, high] == pytest.approx(np.array(examples))
    assert set(source) == {"examples"}
    low, high, source = combined_interval(mean, (nothing, nothing), (nothing, nothing))
    assert np.isnan([low, high]).all()
    assert set(source) == {""}


def test_a_combined_interval_adds_the_variances_of_seeds_and_examples():
    """With many seeds and examples it is the normal interval of a sum of two independent errors."""
    mean = np.zeros(1)
    ends = [(np.array([-1.959964 * error]), np.array([1.959964 * error])) for error in (0.03, 0.04)]
    low, high, _ = combined_interval(mean, *ends)
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, 0, 0.05), rel=1e-6)
