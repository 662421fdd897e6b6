"""The commands that the pages print, typed as they stand, give the study again."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import summary
from project import ROOT, Study

pytestmark = pytest.mark.slow
CONFIGURATION = "results/analysis/configuration.yaml"


def commands(study: Study, page: str) -> list[str]:
    return re.findall(r"```\n(.*)\n```", (study.folder / "results/analysis" / page).read_text())


def type_in(study: Study, command: str, folder: Path, *, forks_jobs: bool = False) -> str:
    """Type a command in a folder, the project's environment being active; returns what it printed.

    Its jobs are programs that it starts, or forks."""
    environment = study.environment(forks_jobs=forks_jobs)
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def test_the_configuration_alone_gives_the_same_study_in_a_new_folder(own_study, tmp_path):
    new, snakefile = Study(tmp_path / "new"), shlex.quote(str(ROOT / "Snakefile"))
    shutil.copy(own_study.folder / CONFIGURATION, new.folder)
    command = f"snakemake --snakefile {snakefile} --configfile {Path(CONFIGURATION).name}"
    type_in(own_study, command, new.folder, forks_jobs=True)
    assert summary(new) == summary(own_study)
    assert (new.folder / CONFIGURATION).read_bytes() == (own_study.folder / CONFIGURATION).read_bytes()


def test_the_printed_command_plans_nothing_and_the_analysis_writes_the_same_tables_and_pages(own_study):
    again, analysis = commands(own_study, "EXPERIMENTS.md")
    assert "Nothing to be done" in type_in(own_study, again, own_study.folder)
    type_in(own_study, analysis, own_study.folder)
    first = own_study.folder / "results/analysis"
    names = [path.name for path in first.iterdir() if path.is_file()]
    assert {"summary.csv", "EXPERIMENTS.md", "correctness_memo.md", "configuration.yaml"} <= set(names)
    for name in names:
        assert (own_study.folder / "analysis_again" / name).read_bytes() == (first / name).read_bytes(), name


def test_the_memo_s_commands_merge_and_validate_one_run_again(own_study):
    merge, validation = commands(own_study, "correctness_memo.md")
    output = type_in(own_study, merge, own_study.folder)
    assert "Job stats:" in output
    assert "train_adapter" not in output
    type_in(own_study, validation, own_study.folder)
    assert own_study.json("report.json")["passed"] is True
