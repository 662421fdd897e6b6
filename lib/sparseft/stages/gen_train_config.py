"""Write the configuration of ModelZoo's Trainer for one run, and the run's batches, from the configuration of a study.

    gen_train_config.py --model llama --task boolq --method unstructured --sparsity 50 --mode sparse_to_sparse \
        --configfile config/sweep.yaml config/modelzoo.yaml

Writes config/modelzoo/RUN_ID.yaml, which you should not edit. The folder config/modelzoo/RUN_ID/ gets the batches, and
the Trainer works in it. The training is the one of `backend: modelzoo`, but it is kept apart from the runs of the
study. The model, the mask, the data and the masked checkpoint must exist. run_modelzoo.py starts the Trainer with the
configuration.
"""

import shlex
from pathlib import Path
from typing import Literal

from sparseft.axes import grid
from sparseft.axes.grid import Run, fill
from sparseft.common.errors import InputError
from sparseft.study.configfiles import read_configuration
from sparseft.training.job_flags import JobFlags

# Raise it when the results change.
VERSION = 1


def run(
    *,
    model: str,
    task: str,
    method: str,
    sparsity: int,
    mode: str,
    training: str = "",
    seed: int = 0,
    configfile: tuple[Path, ...] = (),
    target: Literal["CSX", "CPU"] | None = None,
) -> None:
    """Write the configuration and the batches, and print the command of the Trainer.

    Args:
        model: name of a model in the configuration
        task: name of a task in the configuration
        method: method that pruned the model
        sparsity: sparsity in percent
        mode: mode of the fine-tuning
        training: name of a training in grid.trainings, if the configuration has one
        seed: seed of the training
        configfile: configuration files, laid over config/config.yaml in this order
        target: where to train; without it, the configuration's cerebras.target
    """
    from sparseft.training.job import job_of
    from sparseft.training.trainers.modelzoo.trainer_files import trainer_run

    study = read_configuration(list(configfile))
    if task not in study.tasks or training not in study.training_names:
        known = f"the tasks {', '.join(study.tasks)} and the trainings {', '.join(study.grid.trainings) or '(none)'}"
        raise InputError(f"--task {task} --training {training!r}: the configuration has {known}", "choose one of each")
    named = Run(model, task, method, sparsity, mode, seed, training=training)
    settings = study.schedule_of(mode, task, training)
    cerebras = study.cerebras.model_copy(update={"target": target or study.cerebras.target})
    cerebras.check(settings)
    flags = JobFlags(
        run_id=Run.parse(named.id).id,
        model_path=Path(fill(grid.MANIFEST, named)).parent,
        mask_path=Path(fill(grid.mask_path(method), named)),
        data_dir=Path(study.data_folder(task, model)),
        output_dir=Path(fill(grid.TRAINER_CONFIGURATION, named)).with_suffix(""),
        evaluation_batch_size=study.evaluation_batch_size,
        training=settings,
    )
    exported = Path(fill(grid.exported(method), named))
    inputs = [flags.model_path / "manifest.json", flags.data_dir / "train.jsonl", flags.mask_path, exported]
    if missing := [path for path in inputs if not path.exists()]:
        configured = ["--configfile", *map(str, configfile)] if configfile else []
        command = ["snakemake", *map(str, inputs), *configured, "--config", "backend=modelzoo"]
        raise InputError(f"{missing[0]}: this file does not exist yet", f"make it: {shlex.join(command)}")
    trainer = trainer_run(job_of(flags, version=VERSION), cerebras, exported, flags.output_dir)
    configuration = trainer.write(flags.output_dir.with_suffix(".yaml"))
    driver = shlex.join(["workflow/scripts/run_modelzoo.py", str(configuration)])
    print(f"PYTHONPATH=lib:$MODELZOO_HOME/src $MODELZOO_HOME/.venv/bin/python {driver}")
