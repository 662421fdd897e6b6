"""Provide masks from a task's examples, and the places of the files that a method that updates weights writes."""

from collections.abc import Callable

import pytest
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.data.rows import write_rows
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.pruning.calibration_examples import calibrate
from sparseft.pruning.masks.mask_file import Mask
from sparseft.pruning.masks.settings import Masks

from masks import NUMBER, ROWS, TASK, compute_masks


@pytest.fixture
def places(tmp_path) -> PassFiles:
    """Return the places of one sparsity, which do not exist yet."""
    return PassFiles([tmp_path / "masks/m.pt"], tmp_path / "masks/r.json", base=tmp_path / "pruned/base")


@pytest.fixture
def calibration_of(tmp_path) -> Callable[..., ExampleCalibration]:
    """Return a function that gives the calibration of a method on NUMBER of the rows."""
    write_rows(tmp_path / "train.jsonl", ROWS)
    settings = {"calibration_examples": NUMBER}
    return lambda method, **others: calibrate(
        get_method(method), TASK.name, tmp_path / "train.jsonl", Masks(**settings | others)
    )


@pytest.fixture
def computed(calibration_of) -> Callable[..., dict[int, Mask]]:
    """Return a function that computes the masks of a method on NUMBER of the rows."""

    def compute(checkpoint: Checkpoint, method: str, percents: list[int], **settings: object) -> dict[int, Mask]:
        settings = {"calibration_examples": NUMBER, **settings}
        return compute_masks(checkpoint, method, percents, calibration_of(method, **settings), **settings)

    return compute
