"""Export the runs of a study to TensorBoard, to Weights & Biases (W&B), or to files of lm-eval.

    export_study.py --results_dir results/runs --output_dir results/tensorboard --format tensorboard

Each run gets a folder of its name. The study need not be finished: a run that is not evaluated yet has only its loss curve.
Run the same command again to bring an export up to date.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from sparseft.errors import InputError, run_script
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.record_file import read_record_file
from sparseft.records.training_record import TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.study.grid import Run
from tqdm import tqdm

SCHEMAS = {"training": TrainingRecord, "validation": ValidationRecord, "evaluation": EvaluationRecord}
FORMATS = ("tensorboard", "wandb", "lm-eval")


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
        """Return the values of the merged model by name. The reached sparsity is in percent."""
        results = {}
        if self.validation and self.validation.actual_sparsity is not None:
            results["reached_sparsity"] = 100 * self.validation.actual_sparsity
        if self.evaluation:
            results |= {f"eval/{name}": value for name, value in self.evaluation.metrics.items()}
            results["eval/loss"] = self.evaluation.eval_loss
            for task, probe in self.evaluation.probes.items():
                results |= {f"probe_{task}/{name}": value for name, value in probe.metrics.items()}
        return present(results)


def present(values: dict[str, float | None]) -> dict[str, float]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the export, with one folder per run")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what reads the export")
    parser.add_argument("--project", default="sparseft", help="wandb: the project in W&B")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="lm-eval: folder of the prepared tasks")
    return parser.parse_args()


def read_run(folder: Path) -> ExportedRun:
    """Return a run with the records in its folder. Raises InputError if one is damaged, or if the name is not a run's."""
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
    # The machine and the output of the export say nothing about the run.
    settings = wandb.Settings(console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True)
    place = {"project": project, "dir": folder, "resume": "allow", "settings": settings}
    try:
        with wandb.init(**identity, **place, config=exported.config) as run:
            for step, values in exported.history.items():
                # Without `commit` the last step would come after the results, and replace them.
                run.log(values, step=step, commit=True)
            run.summary.update(exported.results)
    except wandb.Error as error:
        raise InputError(f"W&B: {error}", "log in with `wandb login`, or set WANDB_MODE=offline") from None


def write(exported: ExportedRun, args: argparse.Namespace) -> bool:
    """Write the folder of a run, or replace it. Return whether the run has something to export."""
    evaluation = exported.evaluation
    # lm-eval did not evaluate a task whose metric is the loss.
    has_content = evaluation and evaluation.harness if args.format == "lm-eval" else exported.training or evaluation
    if not has_content:
        return False
    place = args.output_dir / exported.run.id
    with atomic_folder(place, f"{args.format} export") as folder:
        if args.format == "tensorboard":
            write_tensorboard(exported, folder)
        elif args.format == "wandb":
            write_wandb(exported, folder, args.project)
        else:
            from sparseft.evaluation.recorded_answers import write_lm_eval_files

            write_lm_eval_files(evaluation, exported.run.id, args.data_dir, folder)
        # New files have other names, with the time in them. Beside older ones, every value would be there twice.
        for older in (*place.glob("events.out.tfevents.*"), *place.glob("*_*.json*")):
            older.unlink()
    return True


def main() -> int:
    """Export each run. Return 1 if a run could not be read."""
    args = parse_args()
    check_apart([args.output_dir], [args.results_dir])
    if args.format == "wandb" and not find_spec("wandb"):
        raise InputError("wandb is not installed", 'pip install "sparseft[wandb]"')
    # A hidden folder is still being written.
    folders = sorted(path for path in args.results_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    hold(args.output_dir)
    exported, damaged = 0, 0
    for folder in tqdm(folders, desc="export", disable=None):
        try:
            run = read_run(folder)
        except InputError as error:
            damaged += 1
            print(f"not exported: {folder.name}: {error}", file=sys.stderr)
        else:
            exported += write(run, args)
    print(f"{args.output_dir}: {exported} of {len(folders)} runs")
    return 1 if damaged else 0


if __name__ == "__main__":
    run_script(main)
