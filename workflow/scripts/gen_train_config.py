"""Write the configuration that ModelZoo's Trainer is given for one run, and its batches, from the study's configuration.

    gen_train_config.py --model llama --task boolq --method unstructured --sparsity 50 --mode sparse_to_sparse \\
        --configfile config/sweep.yaml config/modelzoo.yaml

Writes config/modelzoo/RUN_ID.yaml, not to be edited, and the batches into config/modelzoo/RUN_ID/, which is the Trainer's
folder too: what `backend: modelzoo` trains with, apart from the study's own runs. The model, the masks, the data and the
masked checkpoint are to be there; run_modelzoo.py gives it to the Trainer.
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
from sparseft.training.job import Job, job_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, help_text in (("model", "of the study"), ("task", "of the study"), ("method", "how it is pruned")):
        parser.add_argument(f"--{name}", required=True, help=help_text)
    parser.add_argument("--sparsity", type=int, required=True, help="percent")
    parser.add_argument("--mode", required=True, choices=grid.TRAINED_MODES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[], help="laid over config/config.yaml, in this order"
    )
    parser.add_argument("--target", choices=["CSX", "CPU"], help="the configuration's cerebras.target when left out")
    return parser.parse_args()


def run_of(args: argparse.Namespace, study: Config) -> Run:
    """The run that is asked for. Raises InputError where the study has no such model or task, or the name is none."""
    for kind, name, known in (("model", args.model, study.models), ("task", args.task, study.tasks)):
        if name not in known:
            raise InputError(
                f"--{kind} {name}: the configuration describes {', '.join(known)}", "choose one, or describe it"
            )
    run = Run(args.model, args.task, args.method, args.sparsity, args.mode, args.seed)
    return Run.parse(run.id)


def job(run: Run, study: Config, files: list[Path]) -> Job:
    """The run's job, from the files that the workflow made of the configuration `files`. Raises InputError where one is missing."""
    inputs = {"model": fill(grid.MANIFEST, run), "data": f"{fill(grid.DATA, run)}/train.jsonl",
              "mask": fill(grid.mask_path(run.method), run), "exported": f"{fill(grid.exported(run.method), run)}/export.json"}  # fmt: skip
    missing = [path for path in inputs.values() if not Path(path).exists()]
    if missing:
        command = ["snakemake", *(path.removesuffix("/export.json") for path in inputs.values())]
        command += ["--configfile", *map(str, files)] if files else []
        raise InputError(f"{missing[0]}: not there yet", shlex.join([*command, "--config", "backend=modelzoo"]))
    settings = study.training_of(run.task).model_dump()
    return job_of(argparse.Namespace(
        run_id=run.id, model_path=Path(inputs["model"]).parent, mask_path=Path(inputs["mask"]), data_dir=Path(inputs["data"]).parent,
        evaluation_batch_size=study.evaluation_batch_size, **settings,
    ))  # fmt: skip


def main() -> int:
    args = parse_args()
    study = read_configuration(args.configfile)
    run = run_of(args, study)
    cerebras = study.cerebras.model_copy(update={"target": args.target} if args.target else {})
    check_schedule(cerebras, study.training_of(run.task), study.evaluation_batch_size)
    exported, output = Path(fill(grid.exported(run.method), run)), Path(fill(grid.TRAINER_CONFIGURATION, run))
    trainer = trainer_run(job(run, study, args.configfile), cerebras, exported, output.with_suffix(""))
    trainer.write_batches()
    trainer.write(output)
    driver = shlex.join(["workflow/scripts/run_modelzoo.py", str(output), "--mode", "train"])
    print(f"PYTHONPATH=lib:$MODELZOO_HOME/src $MODELZOO_HOME/.venv/bin/python {driver}")
    return 0


if __name__ == "__main__":
    run_script(main)
