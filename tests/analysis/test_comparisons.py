"""Check which cells are compared, over which examples, and the verdicts on the points of a curve."""

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from sparseft.analysis import tables
from sparseft.analysis.comparisons import compare, correct, judge
from sparseft.analysis.derived import derive
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.statistics import difference_intervals, loss_intervals, mcnemar_p, paired_t_p
from sparseft.study.grid import Run

DENSE = "m-t-dense-sparsity00-sparse_to_dense-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
MASKED = TUNED.replace("to_dense", "to_sparse")
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"


def compared(tmp_path: Path) -> pd.DataFrame:
    return correct(compare(judge_runs(read_runs(tmp_path / "runs")[0])))


def judged(tmp_path: Path, tolerance: float = 0.02) -> pd.Series:
    """Return the only pruned point."""
    runs = judge_runs(read_runs(tmp_path / "runs")[0])
    points = judge(tables.curves(tables.grouped(tables.summary(runs))), compare(runs), tolerance)
    return points[points["sparsity"] > 0].iloc[0]


def test_a_cell_is_compared_with_dense_the_control_its_untuned_model_and_the_other_mode(write_run, tmp_path):
    for run_id in (DENSE, TUNED, MASKED, UNTUNED, MASKED.replace("unstructured", "random")):
        write_run(run_id, 0.5)
    table = compared(tmp_path)
    of_masked = table[(table["method"] == "unstructured") & (table["mode"] == "sparse_to_sparse")]
    random = MASKED.replace("unstructured", "random")
    against = {"dense": DENSE, "random": random, "untuned": UNTUNED, "modes": TUNED}
    assert of_masked.set_index("comparison")["against"].to_dict() == {
        kind: name.removesuffix("-seed0") for kind, name in against.items()
    }


def test_one_pair_of_runs_is_mcnemar_s_test(write_run, tmp_path):
    write_run(DENSE, 0.75)
    write_run(TUNED, 0.5)
    ours, theirs = (record.evaluation.outcomes for record in reversed(read_runs(tmp_path / "runs")[0]))
    row = compared(tmp_path).iloc[0]
    assert (row["difference"], row["p_value"]) == (-0.25, mcnemar_p(theirs, ours))
    assert row["difference_low"] < -0.25 < row["difference_high"] < 0
    assert row["significant"]


def test_partial_credit_is_compared_by_student_s_paired_test(write_run, tmp_path):
    write_run(DENSE, 0.75, fractions=True, definition=True)
    write_run(TUNED, 0.5, fractions=True, definition=True)
    theirs, ours = (record.evaluation.outcomes for record in read_runs(tmp_path / "runs")[0])
    assert set(ours) == {0.0, 0.25, 0.75, 1.0}
    row = compared(tmp_path).iloc[0]
    assert (row["metric"], row["difference"]) == ("overlap", pytest.approx(-0.25 * 0.75))
    assert row["p_value"] == stats.ttest_rel(ours, theirs).pvalue
    low, high = difference_intervals(ours - theirs)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high))
    assert judged(tmp_path)["verdict"] == "beyond tolerance"


def test_of_several_seeds_the_weakest_test_decides(write_run, tmp_path):
    for seed, value in enumerate([0.25, 0.74]):
        write_run(DENSE.replace("seed0", f"seed{seed}"), 0.75)
        write_run(TUNED.replace("seed0", f"seed{seed}"), value)
    row = compared(tmp_path).iloc[0]
    assert (row["n"], row["difference"]) == (2, pytest.approx(-0.255))
    assert row["p_value"] > 0.5
    assert not row["significant"]


def test_a_difference_that_changes_its_sign_between_seeds_is_not_significant(write_run, tmp_path):
    for seed, value in enumerate([0.9, 0.35]):  # +0.4 and -0.15 against 0.5: each significant by itself
        write_run(DENSE.replace("seed0", f"seed{seed}"), 0.5)
        write_run(TUNED.replace("seed0", f"seed{seed}"), value)
    row = compared(tmp_path).iloc[0]
    assert row["difference"] == pytest.approx(0.125)
    assert row["p_holm"] < 0.05
    assert (row["one_sign"], row["significant"]) == (False, False)


def test_a_loss_must_have_one_sign_in_all_seeds_too(write_run, tmp_path):
    for seed, loss in enumerate([1.0, 3.0]):
        write_run(DENSE.replace("seed0", f"seed{seed}"), 0.5, loss=2.2)
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, loss=loss)
    row = compared(tmp_path).iloc[0]
    assert (row["eval_loss_one_sign"], row["eval_loss_significant"]) == (False, False)


def test_a_cell_with_a_fault_is_compared_with_nothing(write_run, tmp_path):
    write_run(DENSE, 0.75)
    write_run(UNTUNED, 0.25)
    write_run(TUNED, 0.5)
    write_run(TUNED.replace("seed0", "seed1"), 0.5, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    assert compared(tmp_path).empty  # the untrained cell has no dense one of its own mode
    tuned = judged(tmp_path)
    assert tuned[["difference_to_dense", "verdict", "recovered_share"]].isna().all()


def test_two_untrained_runs_of_one_model_are_one_observation(write_run, tmp_path):
    def one_model(files: dict) -> None:
        for name, key in (("merge", None), ("validation_report", "checkpoint"), ("evaluation", "model")):
            place = files[name]["inputs"] if key else files[name]
            place[key or "outputs"] = {"model.safetensors": "a" * 64}

    for seed in (0, 1):
        write_run(UNTUNED.replace("seed0", f"seed{seed}"), 0.5, change=one_model)
        write_run(UNTUNED.replace("unstructured", "random").replace("seed0", f"seed{seed}"), 0.25)
    assert compared(tmp_path)["n"].tolist() == [1]


def test_every_seed_is_tested_against_the_one_untuned_run(write_run, tmp_path):
    write_run(UNTUNED, 0.25)
    for seed in (0, 1, 2):
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5)
    (row,) = compared(tmp_path).itertuples()
    assert (row.comparison, row.n, row.significant) == ("untuned", 3, True)


@pytest.mark.parametrize("seeds", [[1], [0, 1]])
def test_where_a_seed_has_no_counterpart_there_is_no_test_and_no_significance(write_run, tmp_path, seeds):
    write_run(DENSE, 0.75)
    for seed in seeds:
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.25)
    row = compared(tmp_path).iloc[0]
    assert (row["n"], row["family_size"], row["significant"]) == (0, 0, False)
    assert pd.isna(row["p_value"])
    assert pd.isna(row["p_holm"])


def test_seeds_that_only_the_other_cell_has_leave_no_test(write_run, tmp_path):
    for seed, value in enumerate([0.3, 0.9, 0.9]):
        write_run(DENSE.replace("seed0", f"seed{seed}"), value)
    # In the one seed that both have, the value rises. The mean over all seeds falls.
    write_run(TUNED, 0.5)
    row = compared(tmp_path).iloc[0]
    assert row["difference_high"] < 0
    assert (row["n"], row["family_size"]) == (0, 0)
    assert not row[["significant", "eval_loss_significant"]].any()
    assert pd.isna(judged(tmp_path)["verdict"])


def test_identical_runs_do_not_differ(write_run, pieces, tmp_path):
    names = ("outcomes", "losses", "answer_tokens", "labels", "predictions", "log_likelihoods")
    same = pieces(Run.parse(DENSE), 0.5)["evaluation"]
    result = {name: same[name] for name in names}
    for run_id in (DENSE, TUNED):
        write_run(run_id, 0.5, change=lambda files: files["evaluation"].update(result))
    row = compared(tmp_path).iloc[0]
    assert (row["difference"], row["p_value"], row["significant"]) == (0, 1, False)
    loss = ("difference", "difference_low", "difference_high", "p_value", "significant")
    assert [row[f"eval_loss_{name}"] for name in loss] == [0, 0, 0, 1, False]


def test_losses_are_compared_pair_by_pair_a_token(write_run, tmp_path):
    write_run(DENSE, 0.5, loss=2.0)
    write_run(DENSE.replace("seed0", "seed1"), 0.5, loss=2.0)
    for seed, loss in enumerate([2.0, 2.5]):
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, loss=loss)
    row = compared(tmp_path).iloc[0]
    records = [record.evaluation for record in read_runs(tmp_path / "runs")[0]]
    dense, again, first, second = (record.losses for record in records)
    low, _ = loss_intervals((first + second - dense - again) / 2, records[0].answer_tokens)
    assert row["eval_loss_difference"] == pytest.approx(0.25)
    # The two pairs differ by 0 and 0.5: one degree of freedom, 97.5 %.
    over_seeds = 12.7062047 * 0.5 / 2
    distance = ((0.25 - low) ** 2 + over_seeds**2) ** 0.5
    assert row["eval_loss_difference_low"] == pytest.approx(0.25 - distance)
    assert row["eval_loss_difference_interval_from"] == "seeds and examples"
    assert row["eval_loss_p_value"] == max(paired_t_p(first - dense), paired_t_p(second - again))
    point = judged(tmp_path)
    assert point["eval_loss_difference"] == pytest.approx(point["eval_loss"] - 2)
    assert point["eval_loss_difference_low"] == row["eval_loss_difference_low"]


def test_other_answer_lengths_are_not_compared(write_run, tmp_path):
    write_run(DENSE, 0.5)
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"]["answer_tokens"].reverse())
    assert len(read_runs(tmp_path / "runs")[0]) == 2
    assert compared(tmp_path).empty


def test_the_family_is_all_of_a_kind_on_a_model_and_task(write_run, tmp_path):
    for model in ("m", "n"):
        write_run(DENSE.replace("m-", f"{model}-"), 0.5)
        for sparsity in (50, 70):
            write_run(TUNED.replace("m-", f"{model}-").replace("50", str(sparsity)), 0.5 - sparsity / 1000)
    table = compared(tmp_path)
    assert table["family_size"].tolist() == [2] * 4
    # Both models say the same, so that each family is that of the other: the smaller p counts twice.
    assert table["p_holm"].min() == pytest.approx(2 * table["p_value"].min())


def test_other_examples_are_not_compared_and_leave_no_difference(write_run, tmp_path):
    write_run(DENSE, 0.75)
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"]["inputs"].update(data="f" * 64))
    assert compared(tmp_path).empty
    point = judged(tmp_path)
    assert point[["difference_to_dense", "difference_low", "verdict"]].isna().all()
    assert (point["value"], point["dense_value"]) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("tolerance", "verdict"), [(0.5, "within tolerance"), (0.25, "undecided"), (0.02, "beyond tolerance")]
)
def test_the_verdict_is_by_the_interval(write_run, tmp_path, tolerance, verdict):
    write_run(DENSE, 0.75)
    write_run(TUNED, 0.5)
    point = judged(tmp_path, tolerance)
    assert (point["difference_to_dense"], point["verdict"]) == (-0.25, verdict)


def test_a_run_that_is_not_valid_has_no_verdict(write_run, tmp_path):
    write_run(DENSE, 0.75)
    write_run(TUNED, 0.75, change=lambda files: files["validation_report"].update(passed=False, violations=1))
    assert pd.isna(judged(tmp_path)["verdict"])


@pytest.mark.parametrize("run_id", [DENSE, TUNED])
def test_a_run_with_a_fault_leaves_no_verdict_on_what_is_compared_with_it(write_run, tmp_path, run_id):
    for name in (DENSE, TUNED):
        alien = {"model": {"model.safetensors": "f" * 64}, "data": "e" * 64} if name == run_id else {}
        write_run(name, 0.75, change=lambda files, alien=alien: files["evaluation"]["inputs"].update(alien))
    other = TUNED.replace("-t-", "-u-")
    write_run(DENSE.replace("-t-", "-u-"), 0.75)
    write_run(other, 0.75)
    runs = judge_runs(read_runs(tmp_path / "runs")[0])
    points = judge(tables.curves(tables.grouped(tables.summary(runs))), compare(runs), 0.5)
    verdicts = points[points["sparsity"] > 0].set_index("task")["verdict"]
    assert pd.isna(verdicts["t"])
    assert verdicts["u"] == "within tolerance"


def verdict_of(write_run, tmp_path, dense: list[float], pruned: list[float], tolerance: float) -> object:
    for seed, value in enumerate(dense):
        write_run(DENSE.replace("seed0", f"seed{seed}"), value, examples=1000)
    for seed, value in enumerate(pruned):
        write_run(TUNED.replace("seed0", f"seed{seed}"), value, examples=1000)
    return judged(tmp_path, tolerance)["verdict"]


def test_a_verdict_covers_the_seeds_too(write_run, tmp_path):
    # The mean difference is 0 and the examples are many, yet one seed lost 0.1.
    assert verdict_of(write_run, tmp_path, [0.7, 0.7], [0.8, 0.6], 0.05) == "undecided"


def test_seeds_that_agree_leave_the_verdict_to_the_examples(write_run, tmp_path):
    assert verdict_of(write_run, tmp_path, [0.7, 0.7], [0.7, 0.7], 0.5) == "within tolerance"


def test_there_is_no_verdict_where_a_seed_has_no_counterpart(write_run, tmp_path):
    assert pd.isna(verdict_of(write_run, tmp_path, [0.6], [0.5, 0.7, 0.61], 0.5))


def test_a_dense_model_that_guesses_has_nothing_to_lose(write_run, tmp_path):
    assert pd.isna(verdict_of(write_run, tmp_path, [0.25], [0.25], 0.5))


def test_the_interval_of_several_seeds_combines_student_s_over_the_pairs_with_the_bootstrap(write_run, tmp_path):
    for seed, value in enumerate([0.5, 0.4, 0.6]):
        write_run(DENSE.replace("seed0", f"seed{seed}"), 0.75)
        write_run(TUNED.replace("seed0", f"seed{seed}"), value)
    row = compared(tmp_path).iloc[0]
    outcomes = [record.evaluation.outcomes for record in read_runs(tmp_path / "runs")[0]]
    ends = difference_intervals((sum(outcomes[3:]) - sum(outcomes[:3])) / 3)
    half = 4.30265273 * 0.1 / 3**0.5  # two degrees of freedom, 97.5 %
    low, high = (((end + 0.25) ** 2 + half**2) ** 0.5 for end in ends)
    assert row["difference_sd"] == pytest.approx(0.1)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-0.25 - low, -0.25 + high))
    assert row["difference_interval_from"] == "seeds and examples"


def test_seeds_that_differ_by_more_than_the_difference_leave_it_not_significant(write_run, tmp_path):
    # Each pair is significant by itself, and both have one sign. Two such seeds do not show what a third would do.
    for seed, value in enumerate([0.25, 0.6]):
        write_run(DENSE.replace("seed0", f"seed{seed}"), 0.75)
        write_run(TUNED.replace("seed0", f"seed{seed}"), value)
    row = compared(tmp_path).iloc[0]
    assert row["p_holm"] < 0.05
    assert row["one_sign"]
    assert row["difference_high"] > 0
    assert not row["significant"]


@pytest.mark.parametrize(("distinct", "number"), [(200, 1), (190, 1), (6, 0)])
def test_examples_that_repeat_one_another_are_not_tested(write_run, tmp_path, distinct, number):
    for run_id, value in ((DENSE, 0.75), (TUNED, 0.5)):
        write_run(run_id, value, distinct_prompts=distinct)
    assert len(compared(tmp_path)) == number


def test_answers_after_other_worked_examples_are_not_compared(write_run, tmp_path):
    def other(files: dict) -> None:
        files["evaluation"]["inputs"]["train"] = "f" * 64

    random = UNTUNED.replace("unstructured", "random")
    write_run(UNTUNED, 0.5, few_shot=5)
    write_run(random, 0.25, few_shot=5, change=other)
    assert derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02).comparisons.empty


@pytest.mark.long
def test_the_family_has_the_comparisons_of_all_settings(write_run, tmp_path):
    for seed, rate in enumerate((0.001, 0.002, 0.003)):
        for run_id, value in ((DENSE, 0.75), (TUNED, 0.7)):
            write_run(run_id.replace("seed0", f"seed{seed}"), value, training={"learning_rate": rate})
    table = derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02).comparisons
    assert table["setting"].nunique() == 3
    assert set(table["family_size"]) == {3}


def test_results_of_two_versions_of_the_harness_are_not_compared(write_run, tmp_path):
    write_run(UNTUNED, 0.5, change=lambda files: files["evaluation"].update(harness="lm-eval 0.3.0"))
    write_run(UNTUNED.replace("unstructured", "random"), 0.25)
    assert derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02).comparisons.empty
