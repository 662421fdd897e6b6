"""Train the adapter of one run on the pruned weights.

    train.py --run_id smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/smollm2 \\
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER

Writes adapter/ (as PEFT does) and train.json: loss curve, evaluation loss before the merge, speed, memory, hashes. With
--save_every a killed run continues from RUN_FOLDER/state.pt. With --distillation.weight it also learns from the dense
model, or from any model with the same tokens.
With `python -m sparseft.training.processes --nproc_per_node N` several processes share every step.
"""

from pathlib import Path

from sparseft.command import Flags, run
from sparseft.language_model.hardware import keep_freed_memory, start
from sparseft.study.grid import TASK_MODES
from sparseft.trainers.torch import hold_together, new_accelerator, train
from sparseft.training.job import JobFlags, job_of, write_train_record


def main(
    *,
    flags: Flags[JobFlags],
    initial_adapter: Path | None = None,
    dense_path: Path | None = None,
) -> None:
    """Read the job, train it, and write its record.

    Args:
        initial_adapter: the adapter of reconstruct.py that a run in mode reconstruct_to_sparse starts from
        dense_path: the model that a distillation learns from, if it is not --model_path; it has the same tokens
    """
    start(flags.threads)
    job = job_of(flags, TASK_MODES, initial_adapter, dense_path)
    if job.settings.shard_model:
        keep_freed_memory(below=1 << 20)
    adapter = flags.output_dir / "adapter"
    state = flags.output_dir / "state.pt"
    accelerator = new_accelerator()
    hold_together(adapter, accelerator)
    record = train(job, adapter, state, accelerator)
    if accelerator.is_main_process:
        write_train_record(flags, job, record)
        state.unlink(missing_ok=True)
    accelerator.end_training()


if __name__ == "__main__":
    run(main)
