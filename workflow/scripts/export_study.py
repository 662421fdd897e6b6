"""Export the runs of a study to TensorBoard or to Weights & Biases (W&B).

    export_study.py --results_dir results/runs --output_dir results/tensorboard --format tensorboard

Each run gets a folder of its name. The study need not be finished: a run that is not evaluated yet has only its loss
curve. Run the same command again to bring an export up to date."""

from collections import defaultdict
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sparseft.command import run
from sparseft.errors import InputError
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.record_file import read_record_file
from sparseft.records.training_record import TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.study.grid import Run

SCHEMAS = {TrainingRecord: "", ValidationRecord: "", EvaluationRecord: "evaluation."}
# The values of each step by name.
History = dict[int, dict[str, float | None]]


def read_run(folder: Path) -> tuple[dict[str, Any], History]:
    """Return the settings of a run, and its values at each step. The results of its merged model are at the last step.

    A record that is not there yet has no values. Raises InputError if one is damaged."""
    config: dict[str, Any] = {}
    history: History = defaultdict(dict)
    for schema, prefix in SCHEMAS.items():
        if (folder / schema.file_name).exists():
            record = read_record_file(folder / schema.file_name, schema)
            config |= {f"{prefix}{name}": value for name, value in record.settings.items()}
            add_values(record, history)
    return config | asdict(Run.parse(folder.name)), history


def add_values(record: TrainingRecord | ValidationRecord | EvaluationRecord, history: History) -> None:
    """Add what a record measured to the steps. The sparsity is in percent."""
    last = max(history, default=0)
    match record:
        case TrainingRecord():
            loss = "reconstruction/error" if record.reconstruction else "train/loss"
            for step in record.loss_curve:
                history[step.step] = {loss: step.loss, "train/learning_rate": step.learning_rate}
            for evaluated in record.eval_curve:
                history[evaluated.step]["eval/loss"] = evaluated.eval_loss
        case ValidationRecord():
            history[last]["actual_sparsity"] = record.actual_sparsity and 100 * record.actual_sparsity
        case EvaluationRecord():
            history[last] |= {f"eval/{name}": value for name, value in record.metrics.items()}
            history[last]["eval/loss"] = record.eval_loss
            for task, probe in record.probes.items():
                history[last] |= {f"probe_{task}/{name}": value for name, value in probe.metrics.items()}


# The writers import what only they need. It takes seconds, or may not be installed.


def write_tensorboard(run_id: str, config: dict[str, Any], history: History, folder: Path) -> None:
    """Write a run as TensorBoard's event file."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from torch.utils.tensorboard import SummaryWriter

    known = {name: value for name, value in config.items() if value is not None}
    hparams = {name: value if isinstance(value, int | float) else str(value) for name, value in known.items()}
    # From the step `purge_step` on, an open TensorBoard forgets what it has read of the run before.
    with SummaryWriter(folder, purge_step=0) as writer:
        writer.file_writer.add_summary(hparams_pb(hparams, trial_id=run_id))
        for step, values in history.items():
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(name, value, step)


def write_wandb(run_id: str, config: dict[str, Any], history: History, folder: Path) -> None:
    """Write a run to W&B, or into `folder` if W&B is offline. The environment variable WANDB_PROJECT names the project."""
    import wandb

    identity = {"id": run_id, "name": run_id, "group": run_id.rpartition("-seed")[0]}
    # The machine and the output of the export say nothing about the run.
    settings = wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True, x_disable_meta=True)
    with wandb.init(**identity, dir=folder, resume="allow", settings=settings, config=config) as wandb_run:
        for step, values in history.items():
            known = {name: value for name, value in values.items() if value is not None}
            wandb_run.log(known, step=step, commit=True)
    # W&B's own process writes its files to the end before it ends.
    wandb.teardown()


def main(*, results_dir: Path, output_dir: Path, format: Literal["tensorboard", "wandb"]) -> None:
    """Export each run.

    Args:
        results_dir: folder of the runs
        output_dir: folder of the export, with one folder per run
        format: what reads the export
    """
    check_apart([output_dir], [results_dir])
    if format == "wandb" and not find_spec("wandb"):
        raise InputError("wandb is not installed", "make install-wandb")
    write = {"tensorboard": write_tensorboard, "wandb": write_wandb}[format]
    hold(output_dir)
    # A hidden folder is still being written.
    for folder in sorted(path for path in results_dir.iterdir() if path.is_dir() and not path.name.startswith(".")):
        config, history = read_run(folder)
        if history:
            with atomic_folder(output_dir / folder.name, f"{format} export") as temporary:
                write(folder.name, config, history, temporary)


if __name__ == "__main__":
    run(main)
