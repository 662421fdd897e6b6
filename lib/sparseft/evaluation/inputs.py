"""Define what the evaluation scripts share: their flags, the checks before they begin, and a checked checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts.types import NonNegativeInt, PositiveInt
from torch import nn

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.command import Threads
from sparseft.data.overlap import Texts, shares_found
from sparseft.data.texts import each_document
from sparseft.errors import InputError
from sparseft.language_model.hardware import choose_device, start
from sparseft.language_model.model import load_model
from sparseft.language_model.placement import device_rooms
from sparseft.storage.hashes import sha256
from sparseft.storage.record import check_model, claim_record
from sparseft.study.grid import Run


@dataclass(frozen=True)
class EvaluationFlags:
    """Hold the flags that the evaluation scripts share.

    Args:
        task: name of the task
        data_dir: folder with the rows of the task
        output: the record
        run_id: the run that the record names
        batch_size: sequences per forward pass
        threads: CPU threads; another number changes the last bits
        weights_mb: memory for weights on each device, in MB; by default nine tenths of what is free. The decoder layers for which
            there is no room are read from their files for every batch, which changes no result
    """

    task: str
    data_dir: Path
    output: Path
    run_id: str | None = None
    batch_size: PositiveInt = 32
    threads: Threads = 1
    weights_mb: NonNegativeInt | None = None

    def rooms(self) -> dict[str, float]:
        """Return the bytes that weights may take on each device."""
        return device_rooms(self.weights_mb)


def begin(flags: EvaluationFlags, kind: str, inputs: list[Path | None]) -> Run | None:
    """Hold the output, a record of this kind, and set up the process. Return the run that the record names.

    `inputs` are the files and folders that are read beside the task's. Raises InputError if the output would replace a file of
    another kind or an input, or if the run has another task."""
    run = Run.parse(flags.run_id) if flags.run_id else None
    if run and run.task != flags.task:
        raise InputError(f"--task {flags.task}: not the task of {flags.run_id}", "correct --task or --run_id")
    claim_record(flags.output, kind, [flags.data_dir, *inputs])
    start(flags.threads)
    return run


def load_checked(folder: Path, flags: EvaluationFlags) -> tuple[nn.Module, object, dict[str, str]]:
    """Return a checkpoint's model, placed where there is room, its tokenizer, and the sha256 of each file.

    Raises InputError if a record beside the checkpoint, or its manifest, has other hashes."""
    checkpoint = Checkpoint(folder)
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    checkpoint.check_manifest(hashes)
    return *load_model(checkpoint.folder, choose_device(), flags.rooms()), hashes


def overlaps(
    sets: dict[str, Texts], rows: list[Texts], calibration: tuple[Path, ...]
) -> tuple[dict[str, float], list[str]]:
    """Return which share of each set occurs in the rows or in the texts of a calibration, and the sha256 of these texts."""
    texts = [Texts(each_document(path), is_one_text=True) for path in calibration]
    return shares_found(sets, [*texts, *rows]), [sha256(path) for path in calibration]
