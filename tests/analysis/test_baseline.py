"""Check that another project's numbers are read strictly, compared with ours, and never filled in."""

from pathlib import Path

import pandas as pd
import pytest
from sparseft.analysis.baseline import COLUMNS, read_baseline
from sparseft.errors import InputError
from test_analyze_results import analyze
from test_docs import check

EXAMPLE = Path(__file__).parents[2] / "config/baseline.csv"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
CPU = "CPU: AMD EPYC, 1 thread"


def write(tmp_path: Path, *lines: str, header: str = ",".join(COLUMNS)) -> Path:
    (tmp_path / "baseline.csv").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path / "baseline.csv"


def test_the_example_is_empty_and_has_the_columns():
    assert EXAMPLE.read_text() == ",".join(COLUMNS) + "\n"
    assert read_baseline(EXAMPLE).empty


def test_cells_without_counterpart_are_named_and_stay_empty(write_run, tmp_path):
    write_run(TUNED, 0.5, speed=4.0)
    write_run(TUNED.replace("50", "70"), 0.25, speed=4.5, training={"lora_r": 9})
    path = write(tmp_path, f'Phoenix,t,50,0.625,2,"{CPU}"', 'Phoenix,t,90,0.3,8,"GPU, one"', 'Other,t,50,,2,"GPU, one"')
    done = analyze(tmp_path / "runs", tmp_path / "out", "--baseline", str(path), "--plot")
    assert (done.returncode, done.stderr.splitlines()) == (0, ["t at 70 %: no baseline", "t at 90 %: no run of ours"])
    table = pd.read_csv(tmp_path / "out/baseline_comparison.csv")
    values = table[["sparsity", "baseline", "value", "baseline_value", "difference", "speed_ratio"]].astype(object)
    assert values.where(values.notna(), None).to_numpy().tolist() == [
        [50, "Other", 0.5, None, None, None],
        [50, "Phoenix", 0.5, 0.625, -0.125, 2.0],
        [70, None, 0.25, None, None, None],
        [90, "Phoenix", None, 0.3, None, None],
    ]
    check(tmp_path / "out/baseline_comparison.csv")
    svg = (tmp_path / "out/plots/setting1_t_acc_vs_sparsity.svg").read_bytes()
    analyze(tmp_path / "runs", tmp_path / "out", "--plot")
    assert svg != (tmp_path / "out/plots/setting1_t_acc_vs_sparsity.svg").read_bytes()


def test_two_settings_of_one_cell_and_the_sparsity_that_was_reached_are_shown(write_run, tmp_path):
    def coarse(files: dict) -> None:
        report = files["validation_report"]
        report["expected_sparsity"] = report["actual_sparsity"] = report["sparsity_within_tolerance"] = 0.6
        for row in report["layers"]:
            row.update(pruned=600, zeros=600)

    write_run(TUNED, 0.25, change=coarse, training={"lora_r": 4})
    write_run(TUNED.replace("seed0", "seed1"), 0.75, change=coarse, training={"lora_r": 8})
    analyze(tmp_path / "runs", tmp_path / "out", "--baseline", str(write(tmp_path, "Phoenix,t,50,0.5,,")))
    table = pd.read_csv(tmp_path / "out/baseline_comparison.csv")
    rows = table[["setting", "sparsity", "reached_sparsity", "difference"]].to_numpy().tolist()
    assert rows == [["lora_r 4", 50, 0.6, -0.25], ["lora_r 8", 50, 0.6, 0.25]]


@pytest.mark.parametrize(("lines", "header", "words"), [
    ([], ",".join([*COLUMNS, "f1"]), "unknown column f1"),
    ([], ",".join(COLUMNS[:-1]), "no column device"),
    (["Phoenix,t,50,62.5,2,CPU"], None, "line 2: value is '62.5'"),
    (["Phoenix,t,50,0.5,2,CPU,more"], None, "rows with more fields than columns"),
    (["Phoenix,t,50,n/a,2,CPU"], None, "line 2: value is 'n/a'"),
    (["Phoenix,t,0.5,0.5,2,CPU"], None, "line 2: sparsity is '0.5'"),
    (["Phoenix,t,50,0.5,0,CPU"], None, "line 2: samples_per_second is '0'"),
    (["Phoenix,t,50,0.5,inf,CPU"], None, "line 2: samples_per_second is 'inf'"),
    (["Phoenix,t,50,0.5,2,CPU", "Phoenix,t,half,0.5,2,CPU"], None, "line 3: sparsity is 'half'"),
    (["Phoenix,t,50,0.5,2,CPU", "Phoenix,t,50,0.6,2,CPU"], None, "line 3: twice the same for baseline"),
    (["Phoenix,,50,0.5,2,CPU"], None, "line 2: nothing for baseline, task, sparsity"),
])  # fmt: skip
def test_what_is_no_baseline_is_refused(tmp_path, lines, header, words):
    path = write(tmp_path, *lines, header=header or ",".join(COLUMNS))
    with pytest.raises(InputError, match=f"{words}.*; give a .csv file with the columns baseline,task"):
        read_baseline(path)


def test_an_unknown_column_is_one_line_and_nothing_is_written(write_run, tmp_path):
    write_run(TUNED, 0.5)
    path = write(tmp_path, header=",".join([*COLUMNS, "f1"]))
    done = analyze(tmp_path / "runs", tmp_path / "out", "--baseline", str(path))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(f"error: {path}: unknown column f1; give a .csv file")
    assert not (tmp_path / "out").exists()
