"""Train one run on the pruned weights: an adapter, or in a full_ mode the kept weights themselves.

    train.py --run_id smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/smollm2 \
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER

Writes adapter/ (as PEFT does) or weights/ (the trained tensors), and train.json: loss curve, speed, memory, hashes.
With --save_every a killed run continues from RUN_FOLDER/state.pt. With --distillation.weight it also learns from the
dense model, or from any model with the same tokens.
With `python -m sparseft.training.processes --nproc_per_node N` several processes share every step.
"""

from pathlib import Path
from typing import Any

from sparseft.command import Flags
from sparseft.grid import RUN_ID, TASK_MODES, training_name
from sparseft.study.config import Config
from sparseft.training.job_flags import JobFlags
from sparseft.training.settings import Effort, Training


def settings(config: Config, cell: Any) -> dict:
    """Return what decides the result of a training with any backend. Another number of threads changes the last
    bits."""
    training = training_name(cell.training)
    left_out = Training.unused_in(cell.mode) | set(Effort.model_fields)
    evaluates = config.evaluates(cell.mode, cell.task, training)
    return {
        "run_id": RUN_ID.format(**vars(cell)),
        "threads": config.resources.threads,
        "evaluation_batch_size": config.evaluation_batch_size if evaluates else None,
        **{key: value for key, value in config.schedule_of(cell.mode, cell.task, training) if key not in left_out},
    }


def effort(config: Config, cell: Any) -> dict:
    """Return what changes the time or the memory of a training, and no bit."""
    schedule = config.schedule_of(cell.mode, cell.task, training_name(cell.training))
    return schedule.model_dump(include=set(Effort.model_fields) - Training.unused_in(cell.mode))


# Raise it when the results change.
VERSION = 1


def run(
    *,
    flags: Flags[JobFlags],
    initial_adapter: Path | None = None,
    dense_path: Path | None = None,
) -> None:
    """Read the job, train it, and write its record.

    Args:
        initial_adapter: the folder adapter/ or weights/ of the training that this one continues: of reconstruct.py in
            mode reconstruct_to_sparse, of the run on --recover_on
        dense_path: the model that a distillation learns from, if it is not --model_path; it has the same tokens
    """
    from sparseft.language_model.hardware import keep_freed_memory, start
    from sparseft.trainers.torch import hold_together, new_accelerator, train
    from sparseft.training.job import job_of, write_train_record

    start(flags.threads)
    job = job_of(flags, TASK_MODES, initial_adapter, dense_path, version=VERSION)
    if job.settings.shard_model:
        keep_freed_memory(below=1 << 20)
    state = flags.output_dir / "state.pt"
    accelerator = new_accelerator()
    hold_together(job.output, accelerator)
    record = train(job, state, accelerator)
    if accelerator.is_main_process:
        write_train_record(flags, job, record)
        # The saved states, also those of a killed training in more processes. state.pt.backup would be the user's.
        for file in flags.output_dir.glob(f"{state.name}*"):
            if file == state or file.name.removeprefix(f"{state.name}.").isdecimal():
                file.unlink()
    accelerator.end_training()
