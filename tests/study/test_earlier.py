"""What is said before a plan makes again what an earlier version made."""

from pathlib import Path

import pytest
import sparseft
from project import laid_over
from sparseft.storage.atomic import write_json
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
