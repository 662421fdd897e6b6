"""Export the runs of a study to TensorBoard or to Weights & Biases (W&B).

    export_study.py --results_dir results/runs --output_dir results/tensorboard --format tensorboard

Each run gets a folder of its name. The study need not be finished: a run that is not evaluated yet has only its loss
curve. Run the same command again to bring an export up to date."""

import shlex
import sys
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sparseft.command import run
from sparseft.errors import InputError
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.record_file import read_record_file
from sparseft.records.training_record import TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_replaceable
from sparseft.study.grid import Run
from tqdm import tqdm

# What W&B writes if it is offline.
OFFLINE = "*/wandb/offline-run-*"
SCHEMAS = {"training": TrainingRecord, "validation": ValidationRecord, "evaluation": EvaluationRecord}


@dataclass(frozen=True)
class ExportedRun:
    """Hold a run with the records that it has so far."""

    run: Run
    training: TrainingRecord | None
    validation: ValidationRecord | None
    evaluation: EvaluationRecord | None

    @property
    def config(self) -> dict[str, object]:
        """Return the settings of the run by name. Those of the evaluation begin with `evaluation.`."""
        config = self.training.settings if self.training else {}
        config |= self.validation.settings if self.validation else {}
        evaluation = self.evaluation.settings if self.evaluation else {}
        return config | {f"evaluation.{name}": value for name, value in evaluation.items()} | asdict(self.run)

    @property
    def history(self) -> dict[int, dict[str, float]]:
        """Return the values of each step of the training by name."""
        if not self.training:
            return {}
        loss = "reconstruction/error" if self.training.reconstruction else "train/loss"
        curve = self.training.loss_curve
        history = {step.step: {loss: step.loss, "train/learning_rate": step.learning_rate} for step in curve}
        for evaluated in self.training.eval_curve:
            history.setdefault(evaluated.step, {})["eval/loss"] = evaluated.eval_loss
        return {step: present(values) for step, values in history.items()}

    @property
    def results(self) -> dict[str, float]:
        """Return the values of the merged model by name. The sparsity is in percent."""
        results = {}
        if self.validation and self.validation.actual_sparsity is not None:
            results["actual_sparsity"] = 100 * self.validation.actual_sparsity
        if self.evaluation:
            results |= {f"eval/{name}": value for name, value in self.evaluation.metrics.items()}
            results["eval/loss"] = self.evaluation.eval_loss
            for task, probe in self.evaluation.probes.items():
                results |= {f"probe_{task}/{name}": value for name, value in probe.metrics.items()}
        return present(results)


def present(values: dict[str, float | None]) -> dict[str, float]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def read_run(folder: Path) -> ExportedRun:
    """Return a run with the records in its folder. Raises InputError if one is damaged, or if the name is not a
    run's."""
    paths = {name: folder / schema.file_name for name, schema in SCHEMAS.items()}
    records = {name: read_record_file(path, SCHEMAS[name]) if path.exists() else None for name, path in paths.items()}
    return ExportedRun(Run.parse(folder.name), **records)


# The writers import what only they need. It takes seconds, or may not be installed.


def write_tensorboard(exported: ExportedRun, folder: Path) -> None:
    """Write the curves, the settings and the results of a run as TensorBoard's event file."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from torch.utils.tensorboard import SummaryWriter

    history = exported.history
    last = max(history, default=0)
    history[last] = history.get(last, {}) | exported.results
    config = present(exported.config).items()
    hparams = {name: value if isinstance(value, int | float) else str(value) for name, value in config}
    # From the step `purge_step` on, an open TensorBoard forgets what it has read of the run before.
    with SummaryWriter(folder, purge_step=0) as writer:
        writer.file_writer.add_summary(hparams_pb(hparams, trial_id=exported.run.id))
        for step, values in history.items():
            for name, value in values.items():
                writer.add_scalar(name, value, step)


def write_wandb(exported: ExportedRun, folder: Path, project: str) -> None:
    """Write a run to W&B, or into `folder` if W&B is offline. Raises InputError if W&B refuses it."""
    import wandb

    identity = {"id": exported.run.id, "name": exported.run.id, "group": exported.run.id.rpartition("-seed")[0]}
    # The machine and the output of the export say nothing about the run. W&B would print the folder's temporary name.
    settings = wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True, x_disable_meta=True)
    place = {"project": project, "dir": folder, "resume": "allow", "settings": settings}
    try:
        with wandb.init(**identity, **place, config=exported.config) as wandb_run:
            for step, values in exported.history.items():
                # Without `commit` the last step would come after the results, and replace them.
                wandb_run.log(values, step=step, commit=True)
            wandb_run.summary.update(exported.results)
            if wandb_run.url:
                print(wandb_run.url)
        # W&B's own process writes its files to the end before it ends.
        wandb.teardown()
    except wandb.Error as error:
        raise InputError(f"W&B: {error}", "log in with `wandb login`, or set WANDB_MODE=offline") from None


def main(
    *,
    results_dir: Path,
    output_dir: Path,
    format: Literal["tensorboard", "wandb"],
    project: str = "sparseft",
) -> int:
    """Export each run. Return 1 if a run could not be read.

    Args:
        results_dir: folder of the runs
        output_dir: folder of the export, with one folder per run
        format: what reads the export
        project: wandb: the project in W&B
    """
    check_apart([output_dir], [results_dir])
    if format == "wandb" and not find_spec("wandb"):
        raise InputError("wandb is not installed", "make install-wandb")
    # A hidden folder is still being written.
    folders = sorted(path for path in results_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    # All folders are checked before the first one is replaced.
    kind = f"{format} export"
    for folder in folders:
        check_replaceable(output_dir / folder.name, kind)
    hold(output_dir)
    writer = {"tensorboard": write_tensorboard, "wandb": partial(write_wandb, project=project)}[format]
    written, damaged = 0, 0
    for folder in tqdm(folders, desc="export", disable=None):
        try:
            exported = read_run(folder)
        except InputError as error:
            damaged += 1
            print(f"not exported: {folder.name}: {error}", file=sys.stderr)
            continue
        if exported.evaluation or exported.training:
            with atomic_folder(output_dir / folder.name, kind) as temporary:
                writer(exported, temporary)
            written += 1
    print(f"{output_dir}: {written} of {len(folders)} runs")
    if list(output_dir.glob(OFFLINE)):
        print(f"to upload them: wandb sync {shlex.quote(str(output_dir))}/{OFFLINE}")
    return 1 if damaged else 0


if __name__ == "__main__":
    run(main)
