"""The commands of the pages, for a project and a study in any folder."""

import shlex
from pathlib import Path

from sparseft.analysis.reproduce import ROOT, Reproduction, reproduction
from sparseft.configfiles import read_configuration
from sparseft.grid import Run
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


def test_runs_that_the_configuration_does_not_ask_for_are_told_apart(tmp_path):
    (tmp_path / "c.yaml").write_text("grid: {sparsities: [50], methods: [random], modes: [sparse_to_dense]}")
    study = read_configuration([tmp_path / "c.yaml"])
    again = reproduction(Path("results/runs"), [], tmp_path / "c.yaml", study)
    ours = "smollm2-hellaswag_mini-random-sparsity50-sparse_to_dense-seed0"
    assert again.others([ours, RUN.id]) == [RUN.id]


def test_the_page_names_the_runs_that_its_configuration_does_not_give(write_run, tmp_path):
    write_run(RUN.id, 0.5)
    (tmp_path / "study.yaml").write_text("keep_merged: true\n")
    done = analyze(tmp_path / "runs", tmp_path / "out", "--configuration", str(tmp_path / "study.yaml"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out/EXPERIMENTS.md").read_text()
    assert (
        f"1 of the 1 runs on this page are not in the grid of that configuration, and these commands do not make them: {RUN.id}."
        in page
    )
    assert "--notemp" not in (tmp_path / "out/correctness_memo.md").read_text()
    assert (tmp_path / "out/configuration.yaml").read_bytes() == (tmp_path / "study.yaml").read_bytes()


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
    assert done.stderr == f"error: {tmp_path}/study.yaml, line 2: keep_merged is given twice; keep one of them\n"
