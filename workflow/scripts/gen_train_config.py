"""Write the configuration of ModelZoo's Trainer for one run, and the run's batches, from the configuration of a study.

    gen_train_config.py --model llama --task boolq --method unstructured --sparsity 50 --mode sparse_to_sparse \\
        --configfile config/sweep.yaml config/modelzoo.yaml

Writes config/modelzoo/RUN_ID.yaml, which you should not edit. The folder config/modelzoo/RUN_ID/ gets the batches, and the
Trainer works in it. The training is the one of `backend: modelzoo`, but it is kept apart from the runs of the study. The model,
the mask, the data and the masked checkpoint must exist. run_modelzoo.py starts the Trainer with the configuration.
"""

import argparse
import shlex
from pathlib import Path

from sparseft.backends.modelzoo.trainer_run import trainer_run
from sparseft.errors import InputError, run_script
from sparseft.study import grid
from sparseft.study.backends.modelzoo import check_schedule
from sparseft.study.config import Config
from sparseft.study.configfiles import read_configuration
from sparseft.study.grid import Run, fill
from sparseft.training.job import JobFlags, TrainingJob, job_of


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name of a model in the configuration")
    parser.add_argument("--task", required=True, help="name of a task in the configuration")
    parser.add_argument("--method", required=True, help="method that pruned the model")
    parser.add_argument("--sparsity", type=int, required=True, help="sparsity in percent")
    parser.add_argument("--mode", required=True, choices=grid.NEW_ADAPTER_MODES, help="mode of the fine-tuning")
    parser.add_argument(
        "--training", default="", help="name of a training in grid.trainings, if the configuration has one"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        help="configuration files, laid over config/config.yaml in this order",
    )
    parser.add_argument(
        "--target", choices=["CSX", "CPU"], help="where to train; without it, the configuration's cerebras.target"
    )
    return parser.parse_args()


def run_of(args: argparse.Namespace, study: Config) -> Run:
    """Return the run that the flags name.

    Raise InputError if the study has no such model or task, or if no run can have this name."""
    for kind, name, known in (("model", args.model, study.models), ("task", args.task, study.tasks)):
        if name not in known:
            raise InputError(
                f"--{kind} {name}: the configuration describes {', '.join(known)}", "choose one, or describe it"
            )
    if args.training not in study.training_names:
        raise InputError(
            f"--training {args.training!r}: not in grid.trainings",
            f"write one of {', '.join(study.grid.trainings)}" if study.grid.trainings else "leave it out",
        )
    run = Run(args.model, args.task, args.method, args.sparsity, args.mode, args.seed, training=args.training)
    return Run.parse(run.id)


def job(run: Run, study: Config, files: list[Path]) -> TrainingJob:
    """Return the training of a run, from what the workflow made.

    Raise InputError if something is missing. The error has the command that makes it from the configuration `files`."""
    inputs = {
        "model": fill(grid.MANIFEST, run),
        "data": f"{fill(grid.DATA, run)}/train.jsonl",
        "mask": fill(grid.mask_path(run.method), run),
        "exported": f"{fill(grid.exported(run.method), run)}/export.json",
    }
    missing = [path for path in inputs.values() if not Path(path).exists()]
    if missing:
        command = ["snakemake", *(path.removesuffix("/export.json") for path in inputs.values())]
        command += ["--configfile", *map(str, files)] if files else []
        command += ["--config", "backend=modelzoo"]
        raise InputError(f"{missing[0]}: this file does not exist yet", f"make it: {shlex.join(command)}")
    flags = JobFlags(
        run_id=run.id,
        model_path=Path(inputs["model"]).parent,
        mask_path=Path(inputs["mask"]),
        data_dir=Path(inputs["data"]).parent,
        output_dir=Path(fill(grid.TRAINER_CONFIGURATION, run)).parent,
        evaluation_batch_size=study.evaluation_batch_size,
        training=study.training_of(run.task, run.training),
    )
    return job_of(flags)


def main() -> int:
    """Write the configuration and the batches, print the command of the Trainer, and return the exit code."""
    args = parse_args()
    study = read_configuration(args.configfile)
    run = run_of(args, study)
    cerebras = study.cerebras.model_copy(update={"target": args.target} if args.target else {})
    check_schedule(cerebras, study.training_of(run.task, run.training), study.evaluation_batch_size)
    exported, output = Path(fill(grid.exported(run.method), run)), Path(fill(grid.TRAINER_CONFIGURATION, run))
    trainer = trainer_run(job(run, study, args.configfile), cerebras, exported, output.with_suffix(""))
    trainer.write_batches()
    trainer.write(output)
    driver = shlex.join(["workflow/scripts/run_modelzoo.py", str(output), "--mode", "train"])
    print(f"PYTHONPATH=lib:$MODELZOO_HOME/src $MODELZOO_HOME/.venv/bin/python {driver}")
    return 0


if __name__ == "__main__":
    run_script(main)
