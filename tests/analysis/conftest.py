"""Write run folders as the workflow leaves them: sound records of a run, which a test may change."""

from collections.abc import Callable
from pathlib import Path

import pytest
from analysis import frames
from sparseft.axes.grid import Run


@pytest.fixture
def write_run(runs_dir: Path) -> Callable[..., Path]:
    """Return write_run(run_id, value, change=..., **changes), which writes a run under tmp_path/results/runs."""
    return lambda run_id, value=0.5, **changes: frames.write_run(runs_dir, Run.parse(run_id), value, **changes)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Return the folder into which write_run writes."""
    return tmp_path / "results/runs"
