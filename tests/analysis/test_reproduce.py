"""Check the commands that the pages print, for a project and a study in any folder."""

import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sparseft.analysis.reproduce import ROOT, Reproduction
from sparseft.study.grid import Run
from test_analyze_results import analyze

RUN = Run.parse("m-boolq-unstructured-sparsity50-sparse_to_dense-seed0")


def test_in_the_project_s_folder_paths_are_short(monkeypatch):
    monkeypatch.chdir(ROOT)
    again = Reproduction(configuration=Path("results/analysis/configuration.yaml"))
    assert again.study() == "snakemake --cores all --configfile results/analysis/configuration.yaml"
    assert again.validation(RUN) == (
        f"python workflow/scripts/validate_sparsity.py --checkpoint results/runs/{RUN.id}/model_dir"
        " --mask_path masks/m/masks_sparsity50_unstructured.pt --base models/m --output report.json"
    )


def test_elsewhere_the_project_and_the_study_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = Reproduction(Path("my study/results/runs"), configuration=Path("c.yaml"))
    place = ["--snakefile", f"{ROOT}/Snakefile", "--directory", "my study"]
    assert shlex.split(again.study()) == ["snakemake", "--cores", "all", "--configfile", "c.yaml", *place]
    target = f"results/runs/{RUN.id}/model_dir"
    words = ["snakemake", target, "--notemp", "--cores", "all", "--configfile", "c.yaml", *place]
    assert shlex.split(again.merge(RUN)) == words
    assert shlex.split(again.validation(RUN))[1:4] == [
        f"{ROOT}/workflow/scripts/validate_sparsity.py", "--checkpoint", f"my study/{target}",
    ]  # fmt: skip
    assert "--base 'my study/models/m'" in again.validation(RUN)
    updated = replace(RUN, method="unstructured_sparsegpt")
    base = f"my study/pruned/m/{RUN.task}/sparsity50_unstructured_sparsegpt"
    assert f"--base '{base}'" in again.validation(updated)
    anew = ["snakemake", "--cores", "all", "--configfile", "configuration.yaml", "--snakefile", f"{ROOT}/Snakefile"]
    assert shlex.split(again.new_study()) == anew


STUDY = """
models: {m: {source: "path:m"}}
tasks: {boolq: {local: data}}
grid: {models: [m], tasks: [boolq], methods: [unstructured], sparsities: [0, 50], modes: [sparse_to_dense]}
training: {steps: 60, learning_rate: 0.001}
"""


def test_the_configuration_is_kept_with_the_results_and_other_runs_are_named_in_the_memo(write_run, tmp_path):
    other = RUN.id.replace("seed0", "seed1")
    for run_id in (RUN.id, other):
        write_run(run_id, 0.5)
    (tmp_path / "study.yaml").write_text(STUDY)
    done = analyze(tmp_path / "runs", tmp_path / "out", "--configuration", str(tmp_path / "study.yaml"))
    assert done.returncode == 0, done.stderr
    assert f"outside the study: {other}: not in the configured grid" in done.stderr
    assert f"| {other} | not in the configured grid |" in (tmp_path / "out/correctness_memo.md").read_text()
    assert "1 run is outside the configured study" in (tmp_path / "out/EXPERIMENTS.md").read_text()
    summary = pd.read_csv(tmp_path / "out/summary.csv").set_index("run_id")
    assert summary["in_study"].to_dict() == {RUN.id: True, other: False}
    assert pd.read_csv(tmp_path / "out/grouped_summary.csv")["runs"].tolist() == [1]
    assert (tmp_path / "out/configuration.yaml").read_bytes() == (tmp_path / "study.yaml").read_bytes()


def test_a_fault_of_a_run_outside_the_study_is_no_fault_of_the_study(write_run, tmp_path):
    other = RUN.id.replace("seed0", "seed1")
    write_run(RUN.id, 0.5)
    write_run(other, 0.5, change=lambda files: files["merge"]["inputs"].update(adapter="f" * 64))
    (tmp_path / "study.yaml").write_text(STUDY)
    analyze(tmp_path / "runs", tmp_path / "out", "--configuration", str(tmp_path / "study.yaml"))
    memo = (tmp_path / "out/correctness_memo.md").read_text()
    verdict = next(line for line in memo.splitlines() if line.startswith("**"))
    assert verdict.startswith("**Everything that was checked in the study holds, but"), verdict
    assert "2 runs checked, 0 with a fault" in verdict
    assert verdict.endswith("1 outside the configured study, 1 of them with a fault.")
    assert f"### {other}\n" in memo.partition("## Runs with a fault")[2]


@pytest.mark.parametrize(("rate", "largest"), [(0.001, 70), (0.01, 30)])
def test_a_requested_run_with_other_settings_ends_what_is_within_the_tolerance(write_run, tmp_path, rate, largest):
    write_run("m-boolq-dense-sparsity00-sparse_to_dense-seed0", 0.9)
    for sparsity in (30, 50, 70):
        run_id = f"m-boolq-unstructured-sparsity{sparsity}-sparse_to_dense-seed0"
        write_run(run_id, 0.9, training={"learning_rate": rate if sparsity == 50 else 0.001})
    (tmp_path / "study.yaml").write_text(STUDY.replace("[0, 50]", "[0, 30, 50, 70]"))
    options = ["--configuration", str(tmp_path / "study.yaml"), "--tolerance", "0.2"]
    analyze(tmp_path / "runs", tmp_path / "out", *options)
    best = pd.read_csv(tmp_path / "out/best_tradeoffs.csv")
    assert best[best["largest_within"]]["sparsity"].tolist() == [largest]


def test_the_configuration_may_lie_where_the_tables_go_and_goes_with_them(write_run, tmp_path):
    write_run(RUN.id, 0.5)
    kept = tmp_path / "out/configuration.yaml"
    kept.parent.mkdir()
    kept.write_text(STUDY)
    assert analyze(tmp_path / "runs", tmp_path / "out", "--configuration", str(kept)).returncode == 0
    assert kept.read_text() == STUDY
    assert analyze(tmp_path / "runs", tmp_path / "out").returncode == 0
    assert not kept.exists()  # it would not describe the tables of this analysis


def test_somebody_else_s_configuration_stays(write_run, tmp_path):
    write_run(RUN.id, 0.5)
    other = tmp_path / "out/configuration.yaml"
    other.parent.mkdir()
    other.write_text("of another program")
    assert analyze(tmp_path / "runs", tmp_path / "out").returncode == 0
    assert other.read_text() == "of another program"


def test_a_configuration_that_gives_none_of_the_runs_is_refused(write_run, tmp_path):
    write_run(RUN.id, 0.5)
    (tmp_path / "study.yaml").write_text("keep_merged: true\n")
    done = analyze(tmp_path / "runs", tmp_path / "out", "--configuration", str(tmp_path / "study.yaml"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/runs: ")
    assert not (tmp_path / "out").exists()


def test_an_analysis_without_a_configuration_prints_no_command_that_would_make_another_study(write_run, tmp_path):
    write_run(RUN.id, 0.5)
    assert analyze(tmp_path / "runs", tmp_path / "out").returncode == 0
    pages = [(tmp_path / "out" / name).read_text() for name in ("EXPERIMENTS.md", "correctness_memo.md")]
    assert all("snakemake " not in page and "`--configuration`" in page for page in pages)


def test_a_configuration_with_a_fault_is_one_line_and_writes_nothing(write_run, tmp_path):
    write_run(RUN.id, 0.5)
    (tmp_path / "study.yaml").write_text("keep_merged: true\nkeep_merged: false\n")
    done = analyze(tmp_path / "runs", tmp_path / "out", "--configuration", str(tmp_path / "study.yaml"))
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/study.yaml, line 2: ")
    assert "keep_merged" in line
