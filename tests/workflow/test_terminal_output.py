"""What a user of Snakemake sees: few lines, the result of each run, the findings, and one line for a wrong target."""

import re
import subprocess
import sys
from pathlib import Path

from project import ROOT, Study

RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"


def snakemake(folder: Path, *arguments: object, path: str = "") -> subprocess.CompletedProcess:
    """Type a command in a folder, with the environment of the tests."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", *arguments]
    environment = Study(folder).environment()
    environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_run_says_its_result_and_the_study_ends_in_its_findings(own_study):
    (own_study.folder / f"results/runs/{RUN}/evaluation.json").unlink()
    done = snakemake(own_study.folder, "--configfile", "study.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    record = own_study.json(f"results/runs/{RUN}/evaluation.json")
    (line,) = [
        line for line in done.stderr.splitlines() if f"{RUN}: {record['metric']} {record['value']:.3f} [" in line
    ]
    low, high = (float(end) for end in re.findall(r"[\d.]+(?=[,\]])", line))
    assert low < record["value"] < high
    assert "1 of 3 jobs done" in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 200
    written = (own_study.folder / "results/analysis/findings.txt").read_text().strip()
    assert written in done.stdout
    assert written in snakemake(own_study.folder, "--configfile", "study.yaml").stdout


def test_a_plan_of_two_thousand_jobs_is_a_table_and_gpus_that_are_not_used_are_named(tmp_path):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor i in 0 1; do echo "GPU $i: X (UUID: GPU-0000000$i)"; done\n')
    program.chmod(0o755)
    asked = ("--dry-run", "--configfile", ROOT / "config/sweep.yaml", "--config", "resources={gpus: 0}")
    done = snakemake(tmp_path, *asked, path=str(program.parent))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    total = next(line for line in lines if line.startswith("total "))
    assert int(total.split()[1]) > 2000
    assert len(lines) < 40
    assert re.match(r"about [\d,.]+ hours on one machine, .* disk: 134\.\d+ GB, ", lines[-1])
    (note,) = [line for line in done.stderr.splitlines() if "GPU" in line]
    assert note.startswith("note: GPUs of this machine: 2, and resources.gpus is 0")


def test_a_target_that_nothing_makes_ends_in_one_line(tmp_path):
    done = snakemake(tmp_path, "evalute")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "evaluate" in line
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != ".snakemake"]
