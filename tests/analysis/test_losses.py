"""Tasks whose metric is the loss: every number follows from the losses, and less is better everywhere."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from scipy import stats
from sparseft.analysis import plots, report_tables
from sparseft.analysis.claims import BETTER, WORSE, Claim, Results, best_method, claims
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.experiments import write_experiments
from sparseft.analysis.findings import NO_VERDICT, findings, headline
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.statistics import loss_intervals
from sparseft.tasks.scoring import ratio_error
from test_records import names, reasons

pytestmark = pytest.mark.long

DENSE = "m-t-dense-sparsity00-sparse_to_dense-seed0"
DENSE_UNTUNED = "m-t-dense-sparsity00-no_finetune-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"
RANDOM = "m-t-random-sparsity50-no_finetune-seed0"
STUDY = {DENSE: 1.5, DENSE_UNTUNED: 2.0, TUNED: 2.0, UNTUNED: 3.5, RANDOM: 5.0}


@pytest.fixture
def study(write_run, tmp_path: Path) -> Callable[..., Derived]:
    """Return a function that writes runs with these losses, and returns the tables of all runs that were written."""

    def write(losses: dict[str, float], tolerance: float = 0.02, **changes: object) -> Derived:
        for run_id, loss in losses.items():
            write_run(run_id, loss, by_loss=True, **changes)
        return derive(judge_runs(read_runs(tmp_path / "runs")[0]), tolerance)

    return write


def pruned(derived: Derived, mode: str = "sparse_to_dense") -> pd.Series:
    """Return the pruned point of a mode of unstructured pruning."""
    points = derived.points[(derived.points["sparsity"] > 0) & (derived.points["mode"] == mode)]
    return points[points["method"] == "unstructured"].iloc[0]


def compared(derived: Derived, kind: str, mode: str) -> pd.Series:
    """Return the one comparison of this kind in a mode of unstructured pruning."""
    table = derived.comparisons.set_index(["comparison", "method", "mode"])
    return table.loc[(kind, "unstructured", mode)]


@pytest.mark.parametrize(("change", "words"), [
    ({"losses": [3.0] * 200}, "eval_loss 2 losses"),
    ({"losses": [3.0] * 199}, "losses 199 200"),
    ({"value": 1.0}, "value 1 eval_loss 2 metrics.loss"),
    ({"value": 1.0, "eval_loss": 1.0}, "eval_loss 1 losses"),
    ({"standard_error": 0.5}, "standard_error 0.5 losses metrics.loss"),
    ({"metrics": {"loss": 2.0, "loss_stderr": 0.5}}, "standard_error metrics.loss"),
    ({"outcomes": [1.0] * 200}, "loss outcomes"),
    ({"labels": [0] * 200, "chance": 0.25}, "loss labels chance"),
])  # fmt: skip
def test_a_number_that_does_not_follow_from_the_losses_is_named(write_run, tmp_path, change, words):
    write_run(UNTUNED, 3.5, by_loss=True)
    write_run(TUNED, 2.0, by_loss=True, change=lambda files: files["evaluation"].update(change))
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert left_out
    assert names(reason, words)


@pytest.mark.parametrize(("name", "value"), [("token_perplexity", 7.0), ("loss", 1.9), ("loss_stderr", 0.9)])
def test_a_metric_that_does_not_follow_from_the_losses_is_named(write_run, tmp_path, name, value):
    write_run(UNTUNED, 3.5, by_loss=True)
    write_run(TUNED, 2.0, by_loss=True, change=lambda files: files["evaluation"]["metrics"].update({name: value}))
    assert names(reasons(tmp_path / "runs")[TUNED][1], f"metrics.{name} {value}")


def test_the_loss_and_its_perplexity_are_in_the_summary(study, tmp_path):
    runs = study(STUDY).runs.set_index("run_id")
    record = next(record for record in read_runs(tmp_path / "runs")[0] if record.run.id == TUNED).evaluation
    row = runs.loc[TUNED]
    assert (row["metric"], row["value"], row["eval_loss"]) == ("loss", 2.0, 2.0)
    assert row["value"] == pytest.approx(record.losses.sum() / record.answer_tokens.sum())
    assert row["standard_error"] == pytest.approx(ratio_error(record.losses, record.answer_tokens))
    assert row["token_perplexity"] == pytest.approx(np.exp(2.0))
    assert pd.isna(row["chance"])


def test_the_interval_is_student_s_with_the_error_of_a_ratio_and_has_no_bounds(study):
    (cell,) = study({UNTUNED: 3.5}).cells.itertuples()
    ends = stats.t.interval(0.95, 199, 3.5, cell.standard_error)
    assert (cell.value_low, cell.value_high) == pytest.approx(ends)
    assert (cell.value_low, cell.value_high) == (cell.eval_loss_low, cell.eval_loss_high)
    assert cell.value_interval_from == "examples"
    assert cell.value_low > 1


def test_the_interval_over_seeds_may_reach_below_0(study):
    cells = study({TUNED: 0.1, TUNED.replace("seed0", "seed1"): 1.9}).cells
    low, high = stats.t.interval(0.95, 1, 1.0, 1.8 / 2)
    assert low < 0
    # The examples add little to what two so different seeds leave open.
    assert low - 0.001 < cells["value_low"].iloc[0] < low
    assert high < cells["value_high"].iloc[0] < high + 0.001


def test_the_interval_of_a_fraction_beside_it_is_still_wilson_s(study, write_run):
    write_run(UNTUNED.replace("-t-", "-u-"), 0.5, examples=12)
    cells = study({UNTUNED: 3.5}).cells.set_index("task")
    wilson = stats.binomtest(6, 12).proportion_ci(method="wilson")
    assert cells.loc["u", ["value_low", "value_high"]].tolist() == pytest.approx([wilson.low, wilson.high])
    assert cells.loc["t", "value_high"] > 3.5


@pytest.mark.parametrize(("dense", "untuned", "tuned", "share"), [
    (1.5, 3.5, 2.0, 0.75), (1.5, 3.5, 1.5, 1), (1.5, 3.5, 3.5, 0), (2.0, 3.0, 3.5, -0.5), (2.0, 1.0, 1.5, None),
])  # fmt: skip
def test_the_recovered_share_by_hand(study, dense, untuned, tuned, share):
    # Pruning took 3.5 - 1.5 = 2 nats, and fine-tuning gave 3.5 - 2 = 1.5 of them back. Without a loss there is no share.
    point = pruned(study({DENSE: dense, UNTUNED: untuned, TUNED: tuned}))
    assert (None if pd.isna(point["recovered_share"]) else point["recovered_share"]) == share
    assert point["difference_to_dense"] == pytest.approx(tuned - dense)


def test_the_difference_is_that_of_the_losses_and_the_test_student_s(study, tmp_path):
    derived = study(STUDY)
    row = compared(derived, "untuned", "sparse_to_dense")
    done = {record.run.id: record.evaluation for record in read_runs(tmp_path / "runs")[0]}
    ours, theirs = done[TUNED], done[UNTUNED]
    low, high = loss_intervals(ours.losses - theirs.losses, ours.answer_tokens)
    assert row["difference"] == pytest.approx(-1.5)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high))
    assert row["p_value"] == stats.ttest_rel(ours.losses, theirs.losses).pvalue
    for name in ("difference", "difference_low", "difference_high", "p_value", "p_holm", "one_sign", "significant"):
        assert row[name] == row[f"eval_loss_{name}"], name
    point = pruned(derived)
    assert (point["difference_low"], point["difference_high"]) == (
        point["eval_loss_difference_low"],
        point["eval_loss_difference_high"],
    )


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 10.0])
def test_a_loss_has_no_verdict_by_any_tolerance_and_the_pages_say_why(study, tolerance):
    derived = study(STUDY, tolerance)
    assert derived.points["verdict"].isna().all()
    assert not derived.best["largest_within"].any()
    assert findings(derived, tolerance).count(NO_VERDICT) == 1
    assert "tolerance" not in " ".join(headline(derived, tolerance))


def test_the_lower_loss_is_the_better_trade_off(study):
    worse = TUNED.replace("unstructured", "structured")
    best = study({DENSE: 1.5, TUNED: 2.0, worse: 2.5}).best
    on_front = best[best["best_for_sparsity"]]
    assert list(zip(on_front["method"], on_front["sparsity"], strict=True)) == [("dense", 0), ("unstructured", 50)]
    fast = study({worse: 1.75}, speed=9.0).best
    assert fast[fast["best_for_speed"]]["method"].tolist() == ["dense", "structured"]


def claim(derived: Derived) -> Claim:
    """Return what is claimed at the one sparsity."""
    (only,) = claims(Results(derived))
    return only


def test_a_higher_loss_is_worse_and_a_lower_one_better(study):
    derived = study(STUDY)
    assert (claim(derived).pruning, claim(derived).tuning, claim(derived).remaining) == (WORSE, BETTER, WORSE)
    (text,) = headline(derived, 0.02)
    assert "raises the loss from 2.000 to 3.500" in text
    assert "lowers it to 2.000 (dense with LoRA: 1.500, significantly lower)" in text


def test_the_best_method_has_the_lowest_loss_and_random_pruning_a_higher_one(study):
    masked = TUNED.replace("to_dense", "to_sparse")
    structured = {name.replace("unstructured", "structured"): loss for name, loss in ((UNTUNED, 4.0), (TUNED, 2.5))}
    derived = study(STUDY | structured | {masked: 1.75, masked.replace("unstructured", "random"): 4.5})
    assert best_method(Results(derived), 50) == "unstructured"
    assert (claim(derived).tuned, claim(derived).lora) == (1.75, "LoRA (sparse_to_sparse)")
    *_, control = headline(derived, 0.02)
    assert "has a higher loss at 50 % (4.500 against 1.750)" in control


def test_fine_tuning_that_reaches_the_dense_loss_brings_it_back(study):
    derived = study(STUDY | {TUNED: 1.25})
    assert claim(derived).remaining == BETTER
    assert "brings it back to 1.250 (dense with LoRA: 1.500, significantly higher)" in headline(derived, 0.02)[0]


def test_pruning_that_lowers_the_loss_costs_nothing(study):
    derived = study(STUDY | {UNTUNED: 1.75, TUNED: 1.6})
    assert (claim(derived).pruning, claim(derived).costs_nothing) == (BETTER, True)
    assert "lowers the loss from 2.000 to 1.750" in headline(derived, 0.02)[0]


def test_a_study_of_dense_runs_says_which_loss_is_lower(study):
    assert headline(study({DENSE_UNTUNED: 2.0, DENSE: 1.5}), 0.02) == [
        "The dense model has a loss of 2.000 without fine-tuning and 1.500 with LoRA, significantly lower; there is no sound"
        " pruned run."
    ]


def test_other_methods_win_a_part_back(study):
    structured = {name.replace("unstructured", "structured"): loss for name, loss in ((UNTUNED, 6.0), (TUNED, 4.0))}
    text = " ".join(headline(study(STUDY | structured), 0.02))
    assert "Where pruning raises the loss, LoRA wins back a part: structured at 50 % from 6.000 to 4.000." in text


def test_the_findings_say_each_loss_once(study):
    texts = findings(study(STUDY), 0.02)
    assert len(texts) == len(set(texts))
    assert not any("values differ" in text or "nan" in text for text in texts)
    assert any("3.5" in text or "+1.500 [" in text for text in texts)


def test_the_figures_have_no_chance_and_show_the_loss_once(study):
    derived = study(STUDY)
    drawn = {plot.name: (plot, build()) for plot, build in plots.run_figures(derived.points, derived.best)}
    assert not [name for name in drawn if "eval_loss" in name]
    plot, figure = drawn["t_loss_vs_sparsity"]
    labels = {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}
    assert labels == {"dense, fine-tuned", "no_finetune", "sparse_to_dense"}
    assert "lower is better" in figure.get_supylabel()
    assert plot.caption.endswith("Lower is better.")
    assert "guessing" not in plot.caption
    mesh = drawn["t_loss_heatmap_m"][1].axes[0].collections[0]
    assert mesh.cmap(0.0) == colormaps["cividis"](1.0)
    assert mesh.get_clim() == (1.5, 5.0)


def test_the_pages_have_no_bar_of_1_and_no_column_of_the_tolerance(study, tmp_path):
    derived = study(STUDY)
    table = report_tables.results(derived.cells)
    assert table.shares == {}
    assert "share of 1" not in table.note
    assert not {"verdict", "loss"} & set(report_tables.points(derived.points).header)
    write_experiments(tmp_path / "page.md", judge_runs(read_runs(tmp_path / "runs")[0]), [], derived, 0.02, plots=[])
    text = (tmp_path / "page.md").read_text()
    assert "| a loss above 0.02 |" not in text
    assert re.search(r"\| t \| loss \| - \| - \| 200 \|", text)
    assert "nan" not in text
    assert "2.000 ± " in text


def test_runs_of_another_definition_are_another_setting(study, write_run, tmp_path):
    def other(files: dict) -> None:
        for name in ("train", "before_merge", "evaluation"):
            files[name]["definition_sha256"] = "f" * 64

    write_run(TUNED.replace("seed0", "seed1"), 2.5, by_loss=True, change=other)
    cells = study({TUNED: 2.0}).cells
    assert sorted(cells["value_mean"]) == [2.0, 2.5]
    assert any("definition ffffffffffff" in text for text in cells["setting"])
    assert [run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])] == [[], []]


@pytest.mark.parametrize("file", ["train", "evaluation"])
def test_a_run_that_was_trained_and_evaluated_by_two_definitions_is_a_fault(write_run, tmp_path, file):
    write_run(TUNED, 2.0, by_loss=True, change=lambda files: files[file].pop("definition_sha256"))
    (run,) = judge_runs(read_runs(tmp_path / "runs")[0])
    (fault,) = run.faults
    assert names(fault, f"definition: {file}.json none")


def test_a_difference_of_the_dense_model_alone_has_its_number(study):
    derived = study({DENSE: 1.5, DENSE_UNTUNED: 2.0})
    told = [text for text in findings(derived, 0.02) if "significantly" in text]
    assert told
    for text in told:
        assert re.search(r"1 of 1 losses differs significantly: dense [^,]*0\.500.* at 0 %", text), text
