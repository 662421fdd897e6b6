"""Compare the interval of the recovered share with its definition."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from sparseft.analysis.derived import derive
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.report_tables import points as points_table
from sparseft.analysis.statistics import ratio_interval

DENSE = "m-t-dense-sparsity00-sparse_to_dense-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"
ENDS = ["recovered_share_low", "recovered_share_high"]


def tuned_point(tmp_path: Path) -> pd.Series:
    """Return the point of the tuned pruned run."""
    points = derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02).points
    return points[(points["sparsity"] == 50) & (points["mode"] == "sparse_to_dense")].iloc[0]


def scored(tmp_path: Path, name: str) -> list[np.ndarray]:
    """Return the scores by example of the tuned, the untuned and the dense run."""
    records = {record.run.id: record.evaluation for record in read_runs(tmp_path / "runs")[0]}
    return [np.array(getattr(records[run_id], name)) for run_id in (TUNED, UNTUNED, DENSE)]


def test_the_ends_are_the_shares_that_student_s_test_just_rejects():
    rng = np.random.default_rng(0)
    lost = rng.normal(0.5, 1, 200)
    won = 0.6 * lost + rng.normal(0, 0.5, 200)
    low, high = ratio_interval(won, lost)
    assert low < won.mean() / lost.mean() < high
    assert [ttest_1samp(won - end * lost, 0).pvalue for end in (low, high)] == pytest.approx([0.05, 0.05])


def test_a_loss_that_is_not_shown_gives_no_interval():
    rng = np.random.default_rng(0)
    lost = rng.normal(0, 1, 200)
    assert ttest_1samp(lost, 0).pvalue > 0.05
    assert np.isnan(ratio_interval(lost + 1, lost)).all()
    assert np.isnan(ratio_interval(np.ones(1), np.ones(1))).all()


def test_equal_differences_have_an_interval_without_width_but_for_rounding():
    lost = np.array([1.0, 0, 0, 1, 0, 1, 1, 1])
    assert ratio_interval(lost, lost) == pytest.approx((1, 1))


def test_the_interval_of_outcomes_has_three_more_examples(write_run, tmp_path):
    for run_id, value in ((DENSE, 0.75), (UNTUNED, 0.25), (TUNED, 0.5)):
        write_run(run_id, value)
    point = tuned_point(tmp_path)
    tuned, untuned, dense = scored(tmp_path, "outcomes")
    expected = ratio_interval(np.append(tuned - untuned, [1, 0, -1]), np.append(dense - untuned, [0, 1, -1]))
    assert tuple(point[ENDS]) == pytest.approx(expected)
    assert point["recovered_share"] == 0.5
    assert 0.3 < expected[0] < 0.5 < expected[1] < 0.7
    shown = points_table(point.to_frame().T).rows
    low, high = (f"{100 * end:.0f}" for end in expected)
    assert f"50 ({low} to {high})" in str(shown)


def test_a_model_that_wins_all_back_has_an_interval_with_a_width(write_run, tmp_path):
    for run_id, value in ((DENSE, 0.75), (UNTUNED, 0.25), (TUNED, 0.75)):
        write_run(run_id, value)
    low, high = tuned_point(tmp_path)[ENDS]
    assert low < 0.99 < 1.01 < high


def test_the_interval_of_a_loss_is_over_the_losses(write_run, tmp_path):
    for run_id, value in ((DENSE, 1.0), (UNTUNED, 3.0), (TUNED, 2.0)):
        write_run(run_id, value, by_loss=True)
    tuned, untuned, dense = scored(tmp_path, "losses")
    point = tuned_point(tmp_path)
    assert tuple(point[ENDS]) == pytest.approx(ratio_interval(tuned - untuned, dense - untuned))
    assert point["recovered_share"] == pytest.approx(0.5)


@pytest.mark.long
def test_a_share_without_one_of_its_runs_or_of_little_loss_has_no_interval(write_run, tmp_path):
    write_run(UNTUNED, 0.5)
    write_run(TUNED, 0.5)
    assert tuned_point(tmp_path)[ENDS].isna().all()
    write_run(DENSE, 0.505)
    point = tuned_point(tmp_path)
    assert point["recovered_share"] == 0
    assert point[ENDS].isna().all()
