"""What is said before a plan makes again what an earlier version made."""

from pathlib import Path

import pytest
import sparseft
from project import laid_over
from sparseft.storage.atomic import write_json
from sparseft.study.configfiles import complete_text
from sparseft.study.earlier import made_again

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
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate is 0.5 instead of ", "grid.trainings, or "),
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
