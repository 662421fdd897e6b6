"""Probes: their columns, their mean, their tests, and what is checked of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sparseft.analysis import report_tables
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.experiments import write_experiments
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.memo import write_memo
from sparseft.analysis.records import read_runs
from sparseft.analysis.statistics import mcnemar_p
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from statsmodels.stats.proportion import proportion_confint
from test_memo import row
from test_records import names, reasons

DENSE = "m-t-dense-sparsity00-sparse_to_dense-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"
RANDOM = "m-t-random-sparsity50-sparse_to_dense-seed0"


def derived(tmp_path: Path) -> Derived:
    """Return the tables of the runs that were written."""
    records, gaps = read_runs(tmp_path / "runs")
    return derive(judge_runs(records), 0.02, gaps)


def error(value: float) -> float:
    """Return the standard error of a share of 100 examples."""
    return (value * (1 - value) / 99) ** 0.5


def test_every_probe_has_its_columns_and_the_mean_has_the_error_of_independent_examples(write_run, tmp_path):
    write_run(TUNED, 0.5, probes={"arc_easy": 0.6, "piqa": 0.75, "rte": 0.5})
    row = derived(tmp_path).runs.iloc[0]
    assert (row["probe_arc_easy"], row["probe_piqa"], row["probe_piqa_examples"]) == (0.6, 0.75, 100)
    assert row["probe_rte_stderr"] == pytest.approx(error(0.5))
    assert row["probes_mean"] == pytest.approx(1.85 / 3)
    squares = error(0.6) ** 2 + error(0.75) ** 2 + error(0.5) ** 2
    assert row["probes_mean_stderr"] == pytest.approx(squares**0.5 / 3)


def test_a_study_without_probes_has_no_column_and_no_section_of_them(write_run, tmp_path):
    write_run(TUNED, 0.5)
    tables = derived(tmp_path)
    assert not [name for table in (tables.runs, tables.cells, tables.points) for name in table if "probe" in name]
    assert report_tables.probes(tables.cells).rows == []
    assert "probe" not in memo(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"outcomes": [1.0] * 100}, "probes arc_easy outcomes 40 predictions value 0.6"),
    ({"outcomes": [1.0] * 60 + [0.0] * 39}, "probes arc_easy 99 outcomes 100"),
    ({"outcomes": [1.5] + [0.0] * 99}, "probes arc_easy outcomes 0 1"),
    ({"value": 0.7}, "probes arc_easy value 0.7 outcomes"),
    ({"labels": [0] * 100}, "probes arc_easy predictions outcomes labels"),
    ({"predictions": None}, "probes arc_easy predictions"),
    ({"metric": "loss"}, "probes arc_easy metric loss"),
    ({"standard_error": 0.3}, "probes arc_easy standard_error 0.3 outcomes"),
    ({"metrics": {"acc": 0.7, "acc_stderr": 0.05}}, "probes arc_easy metrics.acc"),
])  # fmt: skip
def test_a_probe_that_contradicts_itself_is_named(write_run, tmp_path, change, words):
    write_run(UNTUNED, 0.4, probes={"arc_easy": 0.5})
    write_run(TUNED, 0.5, probes={"arc_easy": 0.6},
              change=lambda files: files["evaluation"]["probes"]["arc_easy"].update(change))  # fmt: skip
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert left_out
    assert names(reason, words)


def test_the_standard_error_of_partial_credit_is_that_of_its_outcomes(write_run, tmp_path):
    scores = [0.0, 0.25, 0.5, 1.0] * 25
    result = {"value": float(np.mean(scores)), "standard_error": float(stats.sem(scores)), "outcomes": scores}
    result["metrics"] = {"acc": result["value"], "acc_stderr": result["standard_error"]}
    result["scored_by"] = "lm-eval"
    write_run(TUNED, 0.5, probes={"arc_easy": 0.6},
              change=lambda files: files["evaluation"]["probes"]["arc_easy"].update(result))  # fmt: skip
    assert derived(tmp_path).runs["probe_arc_easy_stderr"].tolist() == pytest.approx([stats.sem(scores)])
    (run,) = judge_runs(read_runs(tmp_path / "runs")[0])
    assert any(names(reason, "probe arc_easy: acc lm-eval") for reason in run.unchecked)
    assert "| arc_easy | acc | 100 | mean of the outcomes | 1 of 1 |" in memo(tmp_path)


def test_a_run_without_a_probe_of_the_others_is_named_and_has_no_mean(write_run, tmp_path):
    for seed, probes in enumerate([{"arc_easy": 0.6, "piqa": 0.75}, {"arc_easy": 0.5}]):
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, probes=probes)
    assert {run_id: (left_out, names(reason, "evaluation.json: probe piqa")) for run_id, (left_out, reason) in
            reasons(tmp_path / "runs").items()} == {TUNED.replace("seed0", "seed1"): (False, True)}  # fmt: skip
    tables = derived(tmp_path)
    assert tables.runs["probes_mean"].isna().tolist() == [False, True]
    (cell,) = tables.cells.itertuples()
    assert (cell.n, cell.probe_arc_easy, cell.probe_piqa, cell.probes_mean) == pytest.approx((2, 0.55, 0.75, 0.675))


def test_two_probes_whose_columns_would_have_one_name_are_refused_also_in_different_runs(write_run, tmp_path):
    write_run(TUNED, 0.5, probes={"piqa": 0.75})
    write_run(UNTUNED, 0.5, probes={"piqa_stderr": 0.25})
    with pytest.raises(InputError, match="runs: the probes piqa and piqa_stderr would have columns of the same name"):
        read_runs(tmp_path / "runs")


def test_a_task_is_no_probe_of_its_own_runs(write_run, tmp_path):
    write_run(TUNED, 0.5, probes={"arc_easy": 0.6, "piqa": 0.75})
    write_run(TUNED.replace("-t-", "-piqa-"), 0.5, probes={"arc_easy": 0.5})
    assert read_runs(tmp_path / "runs")[1] == []
    runs = derived(tmp_path).runs.set_index("task")
    assert (runs.loc["t", "probes_mean"], runs.loc["piqa", "probes_mean"]) == pytest.approx((0.675, 0.5))
    assert runs.loc["piqa", "probes_mean_stderr"] == pytest.approx(error(0.5))


def test_a_gap_that_a_run_has_already_gets_the_missing_probe_as_a_further_reason(write_run, tmp_path):
    write_run(UNTUNED, 0.5, probes={"piqa": 0.75})
    (write_run(TUNED, 0.5) / "train.json").unlink()
    ((_, (left_out, reason)),) = reasons(tmp_path / "runs").items()
    assert not left_out
    assert [words.partition(":")[0] for words in reason.split(" | ")] == ["train.json", "evaluation.json"]


def test_a_cell_without_probes_beside_one_with_them_has_blanks(write_run, tmp_path):
    write_run(TUNED, 0.5, probes={"piqa": 0.75})
    write_run(UNTUNED, 0.5)
    cells = derived(tmp_path).cells.set_index("mode")
    blank = cells.loc["no_finetune", [name for name in cells if name.startswith("probe")]]
    assert len(blank) == 8
    assert blank.isna().all()
    (empty, _) = [row[3:] for row in report_tables.probes(derived(tmp_path).cells).rows]
    assert empty == ["-", "-"]


def test_the_interval_of_a_probe_is_wilson_s_and_that_of_the_mean_student_s(write_run, tmp_path):
    write_run(TUNED, 0.5, probes={"arc_easy": 0.6, "piqa": 0.75})
    tables = derived(tmp_path)
    (cell,) = tables.cells.itertuples()
    assert (cell.probe_piqa_low, cell.probe_piqa_high) == pytest.approx(proportion_confint(75, 100, method="wilson"))
    assert (cell.probes_mean_low, cell.probes_mean_high) == pytest.approx(
        stats.t.interval(0.95, 99, cell.probes_mean, cell.probes_mean_stderr)
    )
    point = tables.points[tables.points["sparsity"] == 50].iloc[0]
    for name in ("probe_piqa", "probe_piqa_low", "probe_piqa_stderr", "probes_mean", "probes_mean_high"):
        assert point[name] == getattr(cell, name)


def test_the_interval_covers_the_seeds(write_run, tmp_path):
    for seed, value in enumerate((0.4, 0.5, 0.6)):
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, probes={"piqa": value})
    (cell,) = derived(tmp_path).cells.itertuples()
    over_seeds = stats.t.interval(0.95, 2, 0.5, 0.1 / 3**0.5)
    over_examples = proportion_confint(50, 100, method="wilson")
    low, high = (0.5 - ((0.5 - a) ** 2 + (0.5 - b) ** 2) ** 0.5 for a, b in zip(over_seeds, over_examples, strict=True))
    assert (cell.probe_piqa_low, 1 - cell.probe_piqa_high) == pytest.approx((low, high))
    assert cell.probes_mean_low < over_seeds[0] < over_seeds[1] < cell.probes_mean_high


def test_every_probe_is_tested_as_the_headline_is_in_a_family_of_its_own(write_run, tmp_path):
    values = {DENSE: 0.9, TUNED: 0.6, TUNED.replace("50", "70"): 0.5, RANDOM: 0.3}
    for run_id, value in values.items():
        write_run(run_id, 0.5, probes={"arc_easy": value, "piqa": 0.75})
    table = derived(tmp_path).comparisons
    assert set(table["metric"]) == {"acc", "probe:arc_easy:acc", "probe:piqa:acc"}
    assert table.groupby("metric").size().tolist() == [4, 4, 4]
    assert table[table["comparison"] == "dense"]["family_size"].tolist() == [3] * 9
    rows = table[(table["metric"] == "probe:arc_easy:acc") & (table["comparison"] == "dense")]
    row = rows[(rows["method"] == "unstructured") & (rows["sparsity"] == 50)].iloc[0]
    done = {record.run.id: record.evaluation.probes["arc_easy"] for record in read_runs(tmp_path / "runs")[0]}
    assert row["difference"] == pytest.approx(-0.3)
    assert row["p_value"] == mcnemar_p(done[TUNED].outcomes, done[DENSE].outcomes)
    assert row["difference_low"] < -0.3 < row["difference_high"]
    assert (row["examples"], row["significant"]) == (100, True)
    losses = table.loc[table["metric"] != "acc", [name for name in table if name.startswith("eval_loss_")]]
    assert losses.isna().all(axis=None)
    assert table.loc[table["metric"] == "acc", "eval_loss_significant"].notna().all()


@pytest.mark.long
def test_probes_leave_every_other_number_as_it_is(write_run, tmp_path):
    values = {DENSE: 0.75, TUNED: 0.6, RANDOM: 0.3}
    for run_id, value in values.items():
        write_run(run_id, value)
    alone = derived(tmp_path)
    for run_id, value in values.items():
        write_run(run_id, value, probes={"piqa": 0.75})
    together = derived(tmp_path)
    for name in ("runs", "cells", "points", "best", "layers"):
        # The rows of a probe are one check more that could not be made.
        before = getattr(alone, name).drop(columns="unchecked", errors="ignore")
        pd.testing.assert_frame_equal(getattr(together, name)[list(before)], before)
    rows = together.comparisons[~together.comparisons["metric"].str.startswith("probe:")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, alone.comparisons, check_dtype=False)


def test_a_probe_that_one_of_two_cells_lacks_is_not_compared(write_run, tmp_path):
    write_run(DENSE, 0.75, probes={"piqa": 0.75})
    write_run(TUNED, 0.5)
    assert set(derived(tmp_path).comparisons["metric"]) == {"acc"}


def test_validation_prompts_that_repeat_do_not_keep_the_probes_from_being_tested(write_run, tmp_path):
    for run_id in (DENSE, TUNED):
        write_run(run_id, 0.5, probes={"piqa": 0.75}, distinct_prompts=6)
    assert derived(tmp_path).comparisons["metric"].tolist() == ["probe:piqa:acc"]


@pytest.mark.parametrize(("name", "words"), [
    ("data_sha256", "probe piqa data ffff"), ("definition_sha256", "probe piqa definition ffff"),
    ("harness", "probe piqa harness ffff"),
])  # fmt: skip
def test_runs_with_another_probe_of_the_same_name_are_never_pooled(write_run, tmp_path, name, words):
    write_run(TUNED, 0.25, probes={"piqa": 0.6})
    write_run(TUNED.replace("seed0", "seed1"), 0.75, probes={"piqa": 0.8},
              change=lambda files: files["evaluation"]["probes"]["piqa"].update({name: "f" * 64}))  # fmt: skip
    cells = derived(tmp_path).cells
    assert sorted(cells["probe_piqa"]) == [0.6, 0.8]
    assert any(words in text for text in cells["setting"])


def memo(tmp_path: Path) -> str:
    """Return the memo of the runs that were written."""
    records, gaps = read_runs(tmp_path / "runs")
    write_memo(tmp_path / "memo.md", judge_runs(records), gaps)
    return (tmp_path / "memo.md").read_text()


def test_the_pages_show_every_probe_and_the_memo_says_what_was_checked(write_run, tmp_path):
    write_run(DENSE, 0.75, probes={"arc_easy": 0.6, "piqa": 0.75})
    write_run(TUNED, 0.5, probes={"arc_easy": 0.5})
    tables = derived(tmp_path)
    table = report_tables.probes(tables.cells)
    assert table.header == ["method", "sparsity, %", "mode", "arc_easy", "piqa", "mean of the probes"]
    assert [row[3:] for row in table.rows] == [
        ["0.600 ± 0.049", "0.750 ± 0.044", "0.675 ± 0.033"],
        ["0.500 ± 0.050", "-", "-"],
    ]
    write_experiments(tmp_path / "page.md", judge_runs(read_runs(tmp_path / "runs")[0]), [], tables, 0.02, plots=[])
    assert "| dense | 0 | sparse_to_dense | 0.600 ± 0.049 | 0.750 ± 0.044 |" in (tmp_path / "page.md").read_text()
    section = memo(tmp_path).partition("## Probes")[2].partition("\n## ")[0]
    assert "| arc_easy | acc | 100 | all | 2 of 2 |" in section
    assert "| piqa | acc | 100 | all | 1 of 2 |" in section


def test_the_rows_of_a_probe_are_compared_with_the_data(write_run, tmp_path):
    runs = tmp_path / "study/results/runs"
    rows = tmp_path / "study/data/hellaswag/validation.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("".join(json.dumps(row(number)) + "\n" for number in range(100)))

    def name_them(files: dict) -> None:
        files["evaluation"]["probes"]["hellaswag"].update(data_sha256=sha256(rows), definition_sha256=None)

    runs.parent.mkdir(parents=True)
    write_run(UNTUNED, 0.5, probes={"hellaswag": 0.5}, change=name_them).parent.rename(runs)
    (run,) = judge_runs(read_runs(runs)[0])
    assert not [reason for reason in [*run.faults, *run.unchecked] if "hellaswag" in reason]
    rows.with_name("manifest.json").write_text(json.dumps({"sha256": {"validation": "0" * 64}}))
    (run,) = judge_runs(read_runs(runs)[0])
    (fault,) = run.faults
    assert names(fault, "probe hellaswag: hellaswag/validation.jsonl manifest")
    rows.unlink()
    (run,) = judge_runs(read_runs(runs)[0])
    assert any(names(reason, "probe hellaswag: hellaswag/validation.jsonl") for reason in run.unchecked)
