"""What the terminal says of a run that has ended, of the findings, and of a wrong target."""

import json

import pytest
from project import laid_over
from sparseft.errors import InputError
from sparseft.study.grid import ResultPaths, Run
from sparseft.study.terminal import check_target, findings, result

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
        ("evalute", False, "evalute: no stage and no rule makes it; name a file of the study, or a stage: masks, "),
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
