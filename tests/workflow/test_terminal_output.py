"""What a user of Snakemake sees: few lines, the findings, and one line for a fault."""

import re
import shutil

import pytest
from project import ROOT, TINY_STUDY, Study, tiny_grid

RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"


def test_a_study_names_its_jobs_and_ends_in_its_findings(own_study):
    (own_study.folder / f"results/runs/{RUN}/evaluation.json").unlink()
    said = own_study.snakemake()
    assert f" job 1 of 3: results/logs/evaluate_run/{RUN}.log\n" in said
    findings = (own_study.folder / "results/analysis/findings.txt").read_text().strip()
    assert findings in said
    assert max(map(len, said.replace(findings, "").splitlines())) < 200
    assert own_study.planned() == {}
    assert findings in own_study.snakemake()


def test_a_plan_of_two_thousand_jobs_is_a_table_and_gpus_that_are_not_used_are_named(tmp_path, monkeypatch):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor i in 0 1; do echo "GPU $i: X (UUID: GPU-0000000$i)"; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
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
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "validation"):
        (rows / f"{split}.jsonl").write_text('{"prompt": "a", "respons": "b"}\n')
    study = Study(tmp_path)
    tasks = {"mine": {"kind": "instruction", "local": "rows"}}
    study.configure({"a": tiny_models["llama"]}, tasks=tasks, grid=tiny_grid("a", "mine"))
    said = study.snakemake("data/mine/train.jsonl", expect=1)
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert line.startswith("prepare_task: error: rows/train.jsonl, line 1: field 'response' is missing; ")
    assert line.endswith("(log: results/logs/prepare_task/mine.log)")


@pytest.mark.parametrize(
    ("sections", "target", "fault"),
    [
        ({}, "evalute", "evaluate"),
        ({}, "analyze --config backend=torch --config keep_merged=True", "--config is given 2 times"),
        ({"grdi": {}}, "analyze", "configuration: grdi: unknown key"),
    ],
)
def test_a_fault_ends_a_command_before_its_first_job_in_one_line(tmp_path, sections, target, fault):
    study = Study(tmp_path)
    study.configure({name: tmp_path / name for name in "ab"}, **TINY_STUDY | sections)
    said = study.snakemake(*target.split(), "--dry-run", expect=2)
    (error,) = [text for text in said.splitlines() if text.startswith("error: ")]
    assert fault in error
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", ".snakemake"}


@pytest.mark.parametrize("name", ["known_hashes", "known_code"])
def test_a_damaged_record_of_a_plan_is_one_line(tmp_path, name):
    file = tmp_path / f".snakemake/{name}.json"
    file.parent.mkdir()
    file.write_text("{")
    study = Study(tmp_path)
    study.configure({name: tmp_path / name for name in "ab"}, **TINY_STUDY)
    said = study.snakemake("--dry-run", expect=2)
    assert f"error: .snakemake/{name}.json: not valid JSON" in said
    assert "Traceback" not in said
