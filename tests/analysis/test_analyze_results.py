"""The script: what it writes, twice the same, of any size, without torch."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from project import job_client
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.tables import curves, grouped, summary

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "analyze_results.py"
PAGES = {
    "summary.csv", "grouped_summary.csv", "sparsity_vs_performance.csv", "missing.csv",
    "comparisons.csv", "best_tradeoffs.csv", "budget.csv", "layer_sparsity.csv", "correctness_memo.md", "EXPERIMENTS.md", "findings.txt",
    "report.html",
}  # fmt: skip
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"


def analyze(runs: Path, output: Path, *flags: str) -> subprocess.CompletedProcess:
    arguments = [SCRIPT, "--results_dir", runs, "--output_dir", output, *flags]
    return subprocess.run([*job_client(sys.executable), *arguments], capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_small_study_is_written_twice_the_same_by_any_number_of_processes(write_grid, tmp_path):
    write_grid(tmp_path / "runs", models=1, tasks=["boolq_mini"], sparsities=[50], seeds=1, layers=2)
    first = analyze(tmp_path / "runs", tmp_path / "a", "--plot")
    second = analyze(tmp_path / "runs", tmp_path / "b", "--plot", "--processes", "1")
    assert (first.returncode, first.stderr) == (0, "")
    assert second.returncode == 0
    assert "11 runs, 0 with a fault" in first.stdout
    assert first.stdout.startswith((tmp_path / "a/findings.txt").read_text())
    assert f"{tmp_path}/a/" in first.stdout.splitlines()[-1]
    written = contents(tmp_path / "a")
    assert written == contents(tmp_path / "b")
    assert set(written) > PAGES
    assert len(written) == len(PAGES) + 2 * 6 + 1  # the marker of this program's folders
    again = analyze(tmp_path / "runs", tmp_path / "a", "--plot")  # over what is there
    assert (again.returncode, contents(tmp_path / "a")) == (0, written)


def test_one_run_is_enough(write_run, tmp_path):
    write_run(TUNED, 0.5)
    done = analyze(tmp_path / "runs", tmp_path / "out", "--plot")
    assert done.returncode == 0, done.stderr
    assert "Nothing here has run on a Cerebras CS-3" in (tmp_path / "out" / "EXPERIMENTS.md").read_text()


@pytest.mark.parametrize(("device", "ran"), [("CSX", True), ("CSX software backend on CPU", False)])
def test_what_the_cerebras_backend_did_on_a_cpu_is_not_called_a_cs_3_s(write_run, tmp_path, device, ran):
    write_run(TUNED, 0.5, backend="cerebras", device=device)
    assert analyze(tmp_path / "runs", tmp_path / "out").returncode == 0
    assert ("Nothing here has run on a Cerebras CS-3" in (tmp_path / "out" / "EXPERIMENTS.md").read_text()) != ran
    [row] = csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines())
    assert (row["backend"], row["device"]) == ("cerebras", device)


def test_a_name_from_outside_is_neither_a_formula_nor_html_in_any_output(write_run, tmp_path):
    device = "=1+1 <script>alert(1)</script>\n```\n![x](https://x.org/y.png)"
    write_run(TUNED, 0.5, device=device, versions={"torch": "<img src=x>"})
    for name in ("=HYPERLINK(1)", "+cmd", "@SUM", "-x", "<script>alert(2)"):
        (tmp_path / "runs" / name).mkdir()
    assert analyze(tmp_path / "runs", tmp_path / "out").returncode == 0
    for table in (tmp_path / "out").glob("*.csv"):
        for cell in (cell for row in csv.reader(table.read_text().splitlines()) for cell in row):
            assert not cell.startswith(("=", "+", "@")), table
            assert not cell.startswith("-") or float(cell) < 0, table
    missing = (tmp_path / "out/missing.csv").read_text()
    assert "'=HYPERLINK(1)" in missing and "'-x" in missing
    for page in ("EXPERIMENTS.md", "correctness_memo.md"):
        text = (tmp_path / "out" / page).read_text()
        assert "alert(1)" in text if page == "EXPERIMENTS.md" else "alert(2)" in text
        assert not re.search(r"<script|<img|\]\(https", text)


def test_gaps_and_failures_are_said_and_the_rest_is_analysed(write_run, tmp_path):
    write_run(TUNED, 0.5, change=lambda files: files["validation_report"].update(passed=False, violations=1))
    other = TUNED.replace("seed0", "seed1")
    (write_run(other, 0.5) / "evaluation.json").write_text("{")
    done = analyze(tmp_path / "runs", tmp_path / "out")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("left out")
    assert f"{other}: evaluation.json" in line
    assert "(at fault)" in done.stdout
    assert (tmp_path / "out" / "missing.csv").read_text().splitlines()[1].startswith(f"{other},True,")
    assert len((tmp_path / "out" / "summary.csv").read_text().splitlines()) == 2
    memo = (tmp_path / "out" / "correctness_memo.md").read_text()
    assert memo.index("## Runs with a fault") < memo.index("## Missing or unreadable") < memo.index("## Every run")


def test_a_study_of_faulty_runs_only_has_a_folder_without_figures_and_says_so(write_run, tmp_path):
    for seed in (0, 1):
        run_id = TUNED.replace("seed0", f"seed{seed}")
        write_run(run_id, 0.5, change=lambda files: files["validation_report"].update(passed=False, violations=1))
    done = analyze(tmp_path / "runs", tmp_path / "out", "--plot")
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "out/plots").iterdir()) == []
    for page in ("findings.txt", "EXPERIMENTS.md", "report.html"):
        assert "Every result here contains a run with a fault" in (tmp_path / "out" / page).read_text()


def test_both_recalls_stand_beside_an_accuracy(write_run, tmp_path):
    write_run(TUNED, 0.38, labels=lambda outcomes: [int(not right) for right in outcomes], classes=True)
    done = analyze(tmp_path / "runs", tmp_path / "out")
    assert "0.380 ± 0.034 no 1.00 yes 0.00" in done.stdout
    text = (tmp_path / "out" / "EXPERIMENTS.md").read_text()
    assert "| t | acc | 0.25 | 0.620 | 200 |" in text


def test_an_overlap_stands_on_the_terminal_in_the_summary_and_beside_the_results_of_every_page(write_run, tmp_path):
    def change(files: dict) -> None:
        files["evaluation"]["probes"]["arc"]["overlap"] = 1.0
        files["evaluation"]["perplexity_overlap"] = 0.0

    write_run(TUNED, 0.5, overlap=0.125, probes={"arc": 0.5}, selection=0.5, change=change)
    done = analyze(tmp_path / "runs", tmp_path / "out")
    line = "Shares that also occur in other data of the study: t validation_overlap 12.5 %, t probe_arc_overlap 100 %."
    assert f"{line}\n" in done.stdout
    for page in ("EXPERIMENTS.md", "correctness_memo.md", "report.html"):
        assert line in (tmp_path / "out" / page).read_text()
    with open(tmp_path / "out/summary.csv") as file:
        (row,) = csv.DictReader(file)
    names = ("validation_overlap", "probe_arc_overlap", "perplexity_overlap", "selection_overlap")
    assert [row[name] for name in names] == ["0.125", "1", "0", "0"]


def several_devices(tmp_path: Path) -> list[str]:
    """Return the curves that EXPERIMENTS.md says several devices trained."""
    return re.findall(r"Several devices .*: (.*)\.", (tmp_path / "out/EXPERIMENTS.md").read_text())


def test_a_curve_of_two_devices_is_said(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(TUNED.replace("50", "70"), 0.25)
    analyze(tmp_path / "runs", tmp_path / "out")
    assert several_devices(tmp_path) == []
    write_run(TUNED.replace("50", "90"), 0.25, device="GPU: one")
    analyze(tmp_path / "runs", tmp_path / "out")
    assert several_devices(tmp_path) == ["m t acc unstructured sparse_to_dense"]


def test_what_an_earlier_call_wrote_and_this_one_does_not_is_removed(write_run, tmp_path):
    plots, other = tmp_path / "out/plots", TUNED.replace("-t-", "-u-")
    baseline = tmp_path / "baseline.csv"
    baseline.write_text("baseline,task,sparsity,value,samples_per_second,device\nx,t,50,0.5,,\n")
    for run_id in (TUNED, other):
        write_run(run_id, 0.5)
    analyze(tmp_path / "runs", tmp_path / "out", "--plot", "--baseline", str(baseline))
    (plots / "u_mine.png").write_bytes(b"a figure of somebody else")
    first = set(contents(tmp_path / "out"))
    shutil.rmtree(tmp_path / "runs" / other)
    analyze(tmp_path / "runs", tmp_path / "out", "--plot")
    gone = first - set(contents(tmp_path / "out"))
    assert "baseline_comparison.csv" in gone
    assert {name for name in gone if not name.startswith("plots/u_")} == {"baseline_comparison.csv"}
    assert len(gone) == 1 + 2 * 5  # task u's figures
    analyze(tmp_path / "runs", tmp_path / "out")  # without plots: none stay beside tables that they do not show
    assert [path.name for path in plots.iterdir()] == ["u_mine.png"]


def test_no_runs_is_one_line_and_code_two(tmp_path):
    done = analyze(tmp_path / "runs", tmp_path / "out")
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/runs: ")


def test_torch_is_never_imported(write_run, tmp_path):
    write_run(TUNED, 0.5)
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    code = f"""import runpy, sys
sys.argv[1:] = ["--results_dir", "{tmp_path}/runs", "--output_dir", "{tmp_path}/out", "--plot"]
try:
    runpy.run_path("{SCRIPT}", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
assert "torch" not in sys.modules and "seaborn" in sys.modules"""
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)


def test_a_study_of_720_runs_is_in_the_tables_and_figures(write_grid, tmp_path):
    study = {"models": 3, "tasks": ["hellaswag", "boolq", "gsm8k"], "sparsities": [50, 90], "seeds": 4}
    assert write_grid(tmp_path / "runs", **study) == 720
    done = analyze(tmp_path / "runs", tmp_path / "out", "--plot")
    assert (done.returncode, done.stderr) == (0, "")
    assert "720 runs, 0 with a fault" in done.stdout
    assert len((tmp_path / "out/summary.csv").read_text().splitlines()) == 721
    assert len(list((tmp_path / "out/plots").iterdir())) == 2 * 3 * (5 + 3)  # of each task 5, and a heat map per model


@pytest.mark.long
@pytest.mark.parametrize("seeds", [1, 2])
def test_curves_hold_every_pruned_run_and_the_shared_dense_points(write_grid, tmp_path, seeds):
    write_grid(tmp_path, models=1, tasks=["boolq", "gsm8k"], sparsities=[30, 60], seeds=seeds, layers=1)
    points = curves(grouped(summary(judge_runs(read_runs(tmp_path)[0]))))
    assert len(points) == 2 * 3 * 3 * 3  # tasks x methods x modes x sparsities with 00
    assert set(points["n"]) == {seeds}
    assert not points.duplicated(["task", "method", "mode", "sparsity"]).any()
    assert points["dense_value"].notna().all()
    assert points["untuned_value"].notna().all()


def test_a_killed_analysis_leaves_nobody_who_holds_the_folder(write_grid, tmp_path):
    write_grid(tmp_path / "runs", models=2, tasks=["boolq", "gsm8k"], sparsities=[50], seeds=1, layers=7)
    command = [sys.executable, SCRIPT, "--results_dir", tmp_path / "runs", "--output_dir", tmp_path / "out", "--plot"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("out/.*.tmp/plots/*.png")):
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(children, timeout=60)
    assert len(children) == 2
    assert not left
    done = analyze(tmp_path / "runs", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_named_as_a_figure_and_a_device_named_as_a_formula_stop_nothing(write_run, tmp_path):
    write_run(TUNED, 0.5, device="GPU $^$ x")
    (tmp_path / "out/plots/x.png").mkdir(parents=True)
    done = analyze(tmp_path / "runs", tmp_path / "out", "--plot")
    assert (done.returncode, done.stderr) == (0, "")
