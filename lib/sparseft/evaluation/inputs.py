"""Read the inputs that the evaluation scripts share: the run that a record names, and a checked checkpoint."""

from pathlib import Path

from torch import nn

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.language_model.hardware import choose_device
from sparseft.language_model.model import load_model
from sparseft.storage.hashes import sha256
from sparseft.storage.record import check_model
from sparseft.study.grid import Run
from sparseft.tasks.documents import each_document
from sparseft.tasks.overlap import Texts, shares_found


def named_run(run_id: str | None, task: str) -> Run | None:
    """Return the run that a record names; None without a name. Raises InputError if the run has another task."""
    run = None if run_id is None else Run.parse(run_id)
    if run and run.task != task:
        raise InputError(f"--task {task}: not the task of {run_id}", "correct --task or --run_id")
    return run


def load_checked(folder: Path) -> tuple[nn.Module, object, dict[str, str]]:
    """Return a checkpoint's model, its tokenizer, and the sha256 of each file.

    Raises InputError if a record beside the checkpoint, or its manifest, has other hashes."""
    checkpoint = Checkpoint(folder)
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    checkpoint.check_manifest(hashes)
    return *load_model(checkpoint.folder, choose_device()), hashes


def overlaps(sets: dict[str, Texts], rows: list[Texts], calibration: list[Path]) -> tuple[dict[str, float], list[str]]:
    """Return which share of each set occurs in the rows or in the texts of a calibration, and the sha256 of these texts."""
    texts = [Texts(each_document(path), is_one_text=True) for path in calibration]
    return shares_found(sets, [*texts, *rows]), [sha256(path) for path in calibration]
