"""Train the adapter of one run on the pruned weights.

    train.py --run_id smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/smollm2 \\
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER

Writes adapter/ (as PEFT does) and train.json: loss curve, evaluation loss before the merge, speed, memory, hashes. With
--save_every a killed run continues from RUN_FOLDER/state.pt. With `python -m torch.distributed.run --nproc_per_node N`
several processes share every step.
"""

import argparse
from pathlib import Path

from sparseft.backends.torch import new_accelerator, train
from sparseft.errors import run_script
from sparseft.language_model.hardware import keep_freed_memory, limit_threads, return_freed_memory
from sparseft.storage.locks import hold
from sparseft.study.grid import TASK_MODES
from sparseft.training.job import add_job_flags, check_outputs, job_of, write_train_record


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_flags(parser)
    parser.add_argument(
        "--initial_adapter",
        type=Path,
        help="the adapter of reconstruct.py that a run in mode reconstruct_to_sparse starts from",
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    check_outputs(args, args.initial_adapter)
    job = job_of(args, TASK_MODES, args.initial_adapter)
    if job.settings.shard_model:
        return_freed_memory()
    else:
        keep_freed_memory()
    adapter = args.output_dir / "adapter"
    state = args.output_dir / "state.pt"
    accelerator = new_accelerator()
    if accelerator.is_main_process:
        hold(adapter)
    # The others must not read the saved state before. Another training may still be writing it.
    accelerator.wait_for_everyone()
    record = train(job, adapter, state, accelerator)
    if accelerator.is_main_process:
        write_train_record(args, job, record)
        state.unlink(missing_ok=True)
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    run_script(main)
