"""What a user of Snakemake sees: few lines, the findings, and one line for a fault."""

import re
import shutil
from pathlib import Path

import pytest
from hub_cache import write
from project import ROOT, Study, program, tiny_grid
from tiny_models import change_json

RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"


def test_a_study_names_its_jobs_and_ends_in_its_findings(own_study):
    (own_study.folder / f"results/runs/{RUN}/evaluation.json").unlink()
    output = own_study.snakemake()
    assert f" job 1 of 3: results/logs/evaluate_run/{RUN}.log\n" in output
    findings = (own_study.folder / "results/analysis/findings.txt").read_text().strip()
    assert findings in output
    assert max(map(len, output.replace(findings, "").splitlines())) < 200
    assert own_study.planned() == {}
    assert findings in own_study.snakemake()


@pytest.mark.slow
def test_a_plan_of_two_thousand_jobs_is_a_table_and_gpus_that_are_not_used_are_named(tmp_path, monkeypatch):
    program(tmp_path / "bin/nvidia-smi", '#!/bin/sh\nfor i in 0 1; do echo "GPU $i: X (UUID: GPU-0000000$i)"; done\n')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    shutil.copy(ROOT / "config/sweep.yaml", tmp_path / "study.yaml")
    lines = Study(tmp_path).snakemake("--dry-run", "--config", "resources={gpus: 0}").splitlines()
    total = next(line for line in lines if line.startswith("total "))
    assert int(total.split()[1]) > 2000
    assert len(lines) < 60
    (hours,) = [line for line in lines if line.startswith("about ")]
    assert re.match(r"about [\d,.]+ hours \(.+\) on one machine, .*27\.96 GB of models, ", hours)
    heads, note = [line for line in lines if line.startswith("note: ")]
    assert heads.startswith("note: models.mistral: masks.head_share 1 asks for 10 % of 8 key-value heads")
    assert note.startswith("note: GPUs of this machine: 2, and resources.gpus is 0")


def test_a_failed_job_is_one_line(tmp_path, tiny_models):
    for split in ("train", "validation"):
        # The plan reads the first row.
        write(tmp_path / f"rows/{split}.jsonl", [{"prompt": "a", "response": "b"}, {"prompt": "a", "respons": "b"}])
    tasks = {"mine": {"kind": "instruction", "local": "rows"}}
    study = Study(tmp_path).configure({"a": tiny_models["llama"]}, tasks=tasks, grid=tiny_grid("a", "mine"))
    output = study.snakemake("data/mine/train.jsonl", expect=1)
    (line,) = [line for line in output.splitlines() if "error: " in line]
    assert line.startswith("prepare_task: error: rows/train.jsonl, line 2: field 'response' is missing")
    assert line.endswith("(log: results/logs/prepare_task/mine.log)")


@pytest.mark.parametrize(
    ("sections", "target", "damaged", "fault"),
    [
        ({}, "evalute", "", "evaluate"),
        ({}, "analyze --config backend=torch --config keep_merged=True", "", "--config is given 2 times"),
        ({"grdi": {}}, "analyze", "", "configuration: grdi: unknown key"),
        ({}, "analyze", ("known_hashes", '{"a": 1}'), "error: .snakemake/known_hashes.json: not a JSON object of"),
    ],
)  # fmt: skip
def test_a_fault_ends_a_command_before_its_first_job_in_one_line(tmp_path, sections, target, damaged, fault):
    if damaged:
        (tmp_path / ".snakemake").mkdir()
        (tmp_path / f".snakemake/{damaged[0]}.json").write_text(damaged[1])
    study = Study(tmp_path).configure({name: tmp_path / name for name in "ab"}, **sections)
    output = study.snakemake(*target.split(), "--dry-run", expect=2)
    (error,) = [text for text in output.splitlines() if text.startswith("error: ")]
    assert fault in error
    assert "Traceback" not in output
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", ".snakemake"}


def test_a_study_that_does_not_fit_on_the_disk_ends_before_its_first_job(tmp_path, tiny_models):
    source = Path(shutil.copytree(tiny_models["llama"], tmp_path / "source"))
    change_json(source / "config.json", vocab_size=10**12)
    output = Study(tmp_path).configure({"a": source}).snakemake("models/a/manifest.json", expect=2)
    assert re.search(r"error: the disk of this folder: .* GB are needed, and .* are free; ", output)
    assert not (tmp_path / "models/a").exists()
