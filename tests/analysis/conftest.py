"""Write run folders as the workflow leaves them: sound records of a run, which a test may change."""

from collections.abc import Callable
from pathlib import Path

import pytest
from records.sound_records import SCHEMAS, pieces
from sparseft.records.record_file import write
from sparseft.study.grid import Run


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return write_run(run_id, value, change=..., **changes), which writes a run under tmp_path/results/runs."""

    def write_run(run_id: str, value: float = 0.5, *, change: Callable[[dict], None] = lambda files: None, **changes):
        run = Run.parse(run_id)
        files = pieces(run, value, **changes)
        change(files)
        folder = tmp_path / "results/runs" / run.id
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write(folder / f"{name}.json", SCHEMAS[name].model_validate(content))
        return folder

    return write_run


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Return the folder into which write_run writes."""
    return tmp_path / "results/runs"
