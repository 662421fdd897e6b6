"""Export the runs of a study to TensorBoard.

    export_study.py --results_dir results/runs --output_dir results/tensorboard

Each run gets a folder of its name. The study need not be finished: a run that is not evaluated yet has only its loss
curve. Run the same command again to bring an export up to date."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from sparseft.axes.grid import Run
from sparseft.common.errors import InputError
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart
from sparseft.storage.record_file import RunRecord, read_record_file
from sparseft.training.training_record import TrainingRecord

# Raise it when the results change.
VERSION = 1
R = TypeVar("R", bound=RunRecord)
# The end of the name of a file that this program exported.
SUFFIX = ".sparseft"
# The values of each step by name.
History = dict[int, dict[str, float]]


def run(*, results_dir: Path, output_dir: Path) -> None:
    """Export each run.

    Args:
        results_dir: folder of the runs
        output_dir: folder of the export, with one folder per run
    """
    check_apart([output_dir], [results_dir])
    hold(output_dir)
    # A hidden folder is still being written.
    for folder in sorted(path for path in results_dir.iterdir() if path.is_dir() and not path.name.startswith(".")):
        config, history = read_run(folder)
        if history:
            place = output_dir / folder.name
            earlier = next(place.glob(f"*{SUFFIX}"), place / SUFFIX)
            with atomic_folder(place, earlier.name) as temporary:
                write_tensorboard(folder.name, config, history, temporary)


def read(folder: Path, schema: type[R]) -> R | None:
    """Return a record of a run; None if it is not there yet. Raises InputError if it is another run's."""
    path = folder / schema.file_name
    record = read_record_file(path, schema) if path.exists() else None
    if record and record.run_id not in (None, folder.name):
        raise InputError(f"{path}: belongs to run {record.run_id}", "give the folder the name of its run")
    return record


def read_run(folder: Path) -> tuple[dict[str, Any], History]:
    """Return the settings of a run, and its values at each step. The results of its merged model are at the last step.

    A record that is not there yet has no values. Raises InputError if one is damaged."""
    train, proof = read(folder, TrainingRecord), read(folder, ValidationRecord)
    evaluation = read(folder, EvaluationRecord)
    config: dict[str, Any] = {}
    history: dict[int, dict[str, float | None]] = defaultdict(dict)
    if train:
        config |= train.settings
        loss = "reconstruction/error" if train.reconstruction else "train/loss"
        for step in train.loss_curve:
            history[step.step] = {loss: step.loss, "train/learning_rate": step.learning_rate}
        for evaluated in train.eval_curve:
            history[evaluated.step]["eval/loss"] = evaluated.eval_loss
    last = max(history, default=0)
    if proof:
        config |= proof.settings
        history[last]["actual_sparsity"] = proof.actual_sparsity and 100 * proof.actual_sparsity
    if evaluation:
        config |= {f"evaluation.{name}": value for name, value in evaluation.settings.items()}
        results = {"eval": evaluation.metrics | {"loss": evaluation.eval_loss}}
        results |= {f"probe_{task}": probe.metrics for task, probe in evaluation.probes.items()}
        for place, metrics in results.items():
            history[last] |= {f"{place}/{name}": value for name, value in metrics.items()}
    known = {step: {name: value for name, value in row.items() if value is not None} for step, row in history.items()}
    return config | asdict(Run.parse(folder.name)), known


def write_tensorboard(run_id: str, config: dict[str, Any], history: History, folder: Path) -> None:
    """Write a run as TensorBoard's event file."""
    # These imports take seconds.
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from torch.utils.tensorboard import SummaryWriter

    known = {name: value for name, value in config.items() if value is not None}
    hparams = {name: value if isinstance(value, int | float) else str(value) for name, value in known.items()}
    # From the step `purge_step` on, an open TensorBoard forgets what it has read of the run before.
    with SummaryWriter(folder, purge_step=0, filename_suffix=SUFFIX) as writer:
        writer.file_writer.add_summary(hparams_pb(hparams, trial_id=run_id))
        for step, values in history.items():
            for name, value in values.items():
                writer.add_scalar(name, value, step)
