"""The scripts: what they write, twice the same, with and without flags, without torch."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from project import ROOT, refused, succeed, tree
from sparseft.axes.grid import FINDINGS, PAGES, REPORT, TABLES

SCRIPT = ROOT / "workflow/scripts/analyze_results.py"
ORIGINAL = "m-boolq_mini-dense-sparsity00-no_finetune-seed0"
DENSE = "m-boolq_mini-dense-sparsity00-sparse_to_dense-seed0"
RUN = "m-boolq_mini-{}-sparsity50-sparse_to_dense-seed0"
FILES = {*TABLES, *PAGES, FINDINGS, REPORT}


def analyze(runs: Path, output: Path, **flags) -> str:
    return succeed("analyze_results.py", results_dir=runs, output_dir=output, **flags)


@pytest.fixture
def study(write_run, runs_dir) -> Path:
    """Write two dense runs and two pruned ones, and return their folder."""
    write_run(ORIGINAL, 0.9)
    write_run(DENSE, 0.9)
    for method, value in (("unstructured", 0.8), ("random", 0.4)):
        write_run(RUN.format(method), value)
    return runs_dir


@pytest.mark.process
def test_a_study_is_written_twice_the_same(study, tmp_path):
    for name in ("a", "b", "a"):
        said = analyze(study, tmp_path / name, plot=True)
    written = tree(tmp_path / "a")
    assert written == tree(tmp_path / "b")
    assert {name for name in written if not name.startswith("plots/")} == FILES
    assert {Path(name).suffix for name in written if name.startswith("plots/")} == {".png", ".svg"}
    assert said.startswith((tmp_path / "a" / FINDINGS).read_text())
    assert said.splitlines()[-1] == f"Tables and pages: {tmp_path}/a/"


def test_a_name_from_outside_is_neither_a_formula_nor_html_in_any_output(write_run, runs_dir, tmp_path):
    device = "=1+1 <script>alert(1)</script>\n```\n![x](https://x.org/y.png)"

    def change(files):
        files["train"].update(device=device, versions={"torch": "<img src=x>"})
        files["evaluation"].update(device=device)

    write_run(RUN.format("unstructured"), change=change)
    for name in ("=HYPERLINK(1)", "+cmd", "@SUM", "-x", "<script>alert(2)"):
        (runs_dir / name).mkdir()
    analyze(runs_dir, tmp_path / "out")
    for table in (tmp_path / "out").glob("*.csv"):
        for cell in (cell for row in csv.reader(table.read_text().splitlines()) for cell in row):
            assert not cell.startswith(("=", "+", "@")), table
            assert not cell.startswith("-") or float(cell) < 0, table
    missing = (tmp_path / "out/missing.csv").read_text()
    assert "'=HYPERLINK(1)" in missing
    assert "'-x" in missing
    for page in PAGES:
        text = (tmp_path / "out" / page).read_text()
        assert "alert(1)" in text or "alert(2)" in text
        assert not re.search(r"(?<!\\)<script|(?<!\\)<img|[^\\]\]\(https", text)


def test_faults_are_said_and_the_rest_is_analysed(study, write_run, tmp_path):
    faulty, damaged = RUN.format("unstructured"), RUN.format("random")
    write_run(faulty, change=lambda files: files["validation_report"].update(passed=False))
    (study / damaged / "evaluation.json").write_text("{")
    said = analyze(study, tmp_path / "out", plot=True)
    assert f"left out: {damaged}: evaluation.json" in said
    # Every pruned run has a fault.
    assert not list((tmp_path / "out/plots").glob("*.*g"))
    table = pd.read_csv(tmp_path / "out/summary.csv").set_index("run_id")
    assert damaged not in table.index
    assert table.at[faulty, "status"] == "fault"
    memo = (tmp_path / "out/correctness_memo.md").read_text()
    for name in (faulty, damaged, "validation failed"):
        assert name in memo


@pytest.mark.process
def test_what_an_earlier_call_wrote_and_this_one_does_not_is_removed(study, tmp_path):
    baseline = tmp_path / "baseline.csv"
    row = "m,boolq_mini,unstructured,50,sparse_to_dense,acc,0.75,theirs"
    baseline.write_text(f"model,task,method,sparsity,mode,metric,value,source\n{row}\n")
    analyze(study, tmp_path / "out", plot=True, baseline=baseline)
    assert pd.read_csv(tmp_path / "out/baseline_comparison.csv")["baseline_value"].tolist() == [0.75]
    analyze(study, tmp_path / "out")
    assert tree(tmp_path / "out").keys() == FILES


@pytest.mark.long
def test_torch_is_never_imported(study, tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, SCRIPT, "--results_dir", study, "--output_dir", tmp_path / "out", "--plot"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert list((tmp_path / "out/plots").glob("*.svg"))


def test_a_folder_without_a_complete_run_is_refused_in_one_line(tmp_path):
    (tmp_path / "runs").mkdir()
    line = refused(tmp_path, "analyze_results.py", results_dir=tmp_path / "runs", output_dir=tmp_path / "out")
    assert "0 runs, none complete" in line
