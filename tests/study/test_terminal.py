"""What the terminal says of what is made again, of a run that has ended, of the findings, and of a wrong target."""

import json
from pathlib import Path

import pytest
import sparseft
from project import laid_over
from sparseft.errors import InputError
from sparseft.storage.atomic import write_json
from sparseft.study.configfiles import complete_text
from sparseft.study.grid import ResultPaths, Run
from sparseft.study.terminal import check_target, failure, findings, made_again, progress, requested, result

RUN = Run("smollm2", "hellaswag_mini", "unstructured", 50, "sparse_to_dense", 0)
RECORD = {"metric": "acc_norm", "value": 0.9416}


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (RECORD, ": acc_norm 0.942"),
        (RECORD | {"outcomes": [0.5, 1.0]}, ": acc_norm 0.942 [0.500, 1.000]"),
        (RECORD | {"overlap": 0.25}, ": acc_norm 0.942, 25 % of it also occurs in training or calibration data"),
        ({}, ": its evaluation.json cannot be read: "),
        (None, ": its evaluation.json cannot be read: "),
    ],
)
def test_a_run_shows_its_metric_with_the_interval_or_what_is_wrong(tmp_path, monkeypatch, record, line):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"results/runs/{RUN.id}/evaluation.json"
    file.parent.mkdir(parents=True)
    file.write_text("" if record is None else json.dumps(record))
    wildcards = {**vars(RUN), "sparsity": "50"}
    said = result(wildcards, ResultPaths(), lambda outcomes: (min(outcomes), max(outcomes)))
    assert f"{RUN.id}{line}" in said
    assert said.startswith("note: ") == ("metric" not in (record or {}))


def test_a_failed_job_is_one_line_with_its_error_and_its_log(tmp_path):
    log = tmp_path / "merge_run/a-seed0.log"
    log.parent.mkdir()
    assert failure(log, tmp_path) == ""
    log.write_bytes(b"traceback | error: inner\n\xff\nerror: one; do it\nerror: two; do that\nE0000 torchrun failed\n")
    assert failure(log, tmp_path) == f"merge_run/a-seed0: error: two; do that (log: {log})"
    log.write_text("step 1 of 3\ninterrupted\n")
    assert failure(log, tmp_path) == f"merge_run/a-seed0: interrupted (log: {log})"
    log.write_text('environment: line 1: 11213 Killed                  CUDA_VISIBLE_DEVICES= "${@:2}"\n')
    assert failure(log, tmp_path).startswith("merge_run/a-seed0: error: the job was killed, ")
    log.write_text("Killed\n")
    assert failure(log, tmp_path) == ""


def test_the_progress_of_a_job_is_the_last_line_of_its_log_that_counts(tmp_path):
    log = tmp_path / "a.log"
    assert progress(log) == ""
    log.write_text("decoder layer 1 of 3, 4 s\nstep 2 of 30: loss 0.5\nsome warning\n")
    assert progress(log) == "step 2 of 30: loss 0.5"


def test_the_findings_end_with_the_place_of_the_page(tmp_path):
    assert findings(tmp_path).endswith(f"{tmp_path}/")
    (tmp_path / "findings.txt").write_text("what was found\n")
    (tmp_path / "report.html").write_text("")
    assert findings(tmp_path) == f"what was found\nThe results page: {tmp_path}/report.html"


@pytest.mark.parametrize(
    ("target", "is_made", "refused"),
    [
        ("evaluate", True, ""),
        ("data/boolq_mini/train.jsonl", True, ""),
        ("there", False, ""),
        (
            "evalute",
            False,
            "evalute: no stage and no rule makes it; name a file of the study, or a stage: prepare, masks, ",
        ),
        ("results/analysis/sumary.csv", False, "no stage and no rule makes it"),
        ("masks/smollm2/masks_sparsity45_unstructured.pt", True, "sparsity 45"),
    ],
)
def test_a_target_that_nothing_makes_is_refused(tmp_path, monkeypatch, target, is_made, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    try:
        said = check_target(laid_over({}), target, is_made) or ""
    except InputError as error:
        said = str(error)
    assert refused in said
    assert bool(said) == bool(refused)


NOW = sparseft.__version__
RECORDS = {
    "old": {"versions": {"sparseft": "0.1.0"}},
    "older": {"versions": {"sparseft": "0.0.9"}},
    "new": {"versions": {"sparseft": NOW}},
    "nameless": {},
}


@pytest.mark.parametrize(
    ("planned", "line"),
    [
        ([], ""),
        (["new/train.json", "nameless/train.json", "untrained/merge.json"], ""),
        (["old/adapter", "old/train.json", "new/train.json"],
         f"1 run in results/runs: made by an earlier version (sparseft 0.1.0, now {NOW}), and made again"),
        (["old/adapter", "older/merge.json"],
         f"2 runs in results/runs: made by an earlier version (sparseft 0.0.9, 0.1.0, now {NOW}), and made again"),
    ],
)  # fmt: skip
def test_the_runs_of_an_earlier_version_are_counted(tmp_path, monkeypatch, planned, line):
    monkeypatch.chdir(tmp_path)
    for name, record in RECORDS.items():
        write_json(f"results/runs/{name}/train.json", record)
    paths = [Path("masks/m/a.pt"), *(Path("results/runs", name) for name in planned)]
    said = made_again(laid_over({}), paths)
    assert said.startswith(line)
    assert bool(said) == bool(line)


NUMBERS = {"train_examples": 480, "validation_examples": 64}


@pytest.mark.parametrize(
    ("sections", "changed", "advice"),
    [
        (
            # The runs had the suggestion of the task, and not the default.
            {"training": {"learning_rate": 0.5}},
            "tasks.hellaswag_mini.training.learning_rate is 0.5 instead of 0.003: ",
            "grid.trainings, or ",
        ),
        (
            {"tasks": {"hellaswag_mini": {**NUMBERS, "training": {"steps": 9}}}},
            "tasks.hellaswag_mini.training.steps is 9 instead of 20",
            "grid.trainings, or ",
        ),
        ({"evaluation_batch_size": 3}, "evaluation_batch_size is 3 instead of 32", "a results folder of its own "),
        ({"masks": {"scope": "row"}}, "masks.scope is row instead of null", "a study in another folder, because "),
        ({"grid": {"seeds": [0, 1]}}, "", ""),
        ({"analysis": {"tolerance": 0.1}}, "", ""),
        ({"resources": {"minutes": 5}}, "", ""),
    ],
)
def test_a_changed_setting_is_named_with_its_two_values_and_how_to_keep_both(
    tmp_path, monkeypatch, sections, changed, advice
):
    monkeypatch.chdir(tmp_path)
    Path("results/analysis").mkdir(parents=True)
    Path("results/analysis/configuration.yaml").write_text(complete_text(laid_over({}), tmp_path))
    planned = [Path("results/runs/a/train.json"), Path("results/runs/b/merge.json")]
    line = made_again(laid_over(sections), planned)
    assert line.startswith(changed)
    assert (": 2 runs are made again; keep both with " + advice in line) == bool(changed)
    assert made_again(laid_over(sections), []) == ""


def test_the_largest_request_of_each_rule_is_in_the_table():
    jobs = [("train", {"MB": 20, "GPUs": 0}), ("merge", {"MB": 5, "GPUs": 0}), ("train", {"MB": 9, "GPUs": 2})]
    lines = [line.split() for line in requested(jobs).splitlines()]
    assert lines[0][-2:] == ["MB", "GPUs"]
    assert lines[1:] == [["merge", "5", "-"], ["train", "20", "2"]]
