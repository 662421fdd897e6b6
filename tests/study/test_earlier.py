"""What is said of a study that an earlier version made."""

from pathlib import Path

import pytest
import sparseft
from sparseft.storage.atomic import write_json
from sparseft.study.earlier import made_again

RUNS = "results/runs"


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A folder with two trainings, of version 0.1.0 and of this one."""
    monkeypatch.chdir(tmp_path)
    write_json(f"{RUNS}/old/train.json", {"versions": {"sparseft": "0.1.0"}})
    write_json(f"{RUNS}/new/train.json", {"versions": {"sparseft": sparseft.__version__}})
    return tmp_path


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_the_model_the_masks_and_the_runs_of_an_earlier_version_are_named(study):
    planned = paths("models/m/manifest.json", "masks/m/a.pt", "masks/m/b.pt", "masks/m/report_a.json")
    planned += paths(
        f"{RUNS}/old/adapter", f"{RUNS}/old/train.json", f"{RUNS}/new/train.json", f"{RUNS}/untrained/merge.json"
    )
    line = made_again(planned)
    assert line.startswith("models/m, 2 masks, 2 runs in results/runs: ")
    assert f"sparseft 0.1.0, now {sparseft.__version__}" in line


def test_nothing_is_said_if_nothing_of_it_is_made_again(study):
    assert made_again([]) == ""
    assert made_again(paths(f"{RUNS}/new/train.json", "results/analysis/summary.csv")) == ""


def test_nothing_is_said_of_a_study_of_this_version(study):
    (study / RUNS / "old/train.json").unlink()
    assert made_again(paths("models/m/manifest.json", f"{RUNS}/new/train.json")) == ""
