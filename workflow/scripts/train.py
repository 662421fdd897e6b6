"""Train the adapter of one run on the pruned weights.

    train.py --run_id smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/smollm2 \\
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER

Writes adapter/ (as PEFT does) and train.json: loss curve, evaluation loss before the merge, speed, memory,
hashes. With --save_every a killed run goes on from RUN_FOLDER/state.pt. Several processes share every step under
`python -m torch.distributed.run --nproc_per_node N`.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.config import Training, add_flags, parse_section
from sparseft.errors import InputError, run_script
from sparseft.files import adapter_digest, check_replaceable, locked, sha256, write_json
from sparseft.grid import NO_FINETUNE, TRAINED_MODES, Run
from sparseft.pruning.mask_ops import check_mask, check_run, read_mask
from sparseft.tasks import get_task, read_examples
from sparseft.tasks.source import SPLITS
from sparseft.training.hardware import keep_freed_memory, limit_threads
from sparseft.training.torch_backend import Job, train

STOCK_PEFT = {
    "sparse_to_dense": "over the pruned base W * M it computes the same; its merge leaves out the mask",
    "sparse_to_sparse": "it computes and merges W * M + s B A without the mask on B A: another model, unless the mask is"
    " structured or all ones",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", required=True, help="names the task, the mode and the seed")
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--mask_path", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True, help="train.jsonl and validation.jsonl")
    parser.add_argument("--output_dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number, other last bits")
    parser.add_argument(
        "--evaluation_batch_size", type=int, default=32, help="sequences a forward pass of the evaluation loss"
    )
    add_flags(parser, Training, Training.model_fields)
    return parser.parse_args()


def job_of(args: argparse.Namespace, run: Run) -> Job:
    """The run with its checked inputs."""
    task, checkpoint, mask = get_task(run.task), Checkpoint(args.model_path), read_mask(args.mask_path)
    settings = parse_section(Training, {name: getattr(args, name) for name in Training.model_fields}, "training")
    rows = {split: read_examples(args.data_dir / f"{split}.jsonl", task) for split in SPLITS}
    check_run(mask, args.mask_path, run.method, run.sparsity)
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    provenance = {"run_id": run.id, "mode": run.mode, "mask_sha256": sha256(args.mask_path), "base": checkpoint.digest,
                  "stock_peft": STOCK_PEFT[run.mode]}  # fmt: skip
    size = args.evaluation_batch_size
    if size < 1:
        raise InputError(f"--evaluation_batch_size {size}", "give 1 or more")
    return Job(checkpoint, mask, run.mode, run.seed, settings, task, rows, size, provenance)


def write(args: argparse.Namespace, job: Job, accelerator: Accelerator) -> None:
    """Train, and write adapter/ and train.json."""
    adapter, state, report = (args.output_dir / name for name in ("adapter", "state.pt", "train.json"))
    check_replaceable(adapter)
    record = train(job, adapter, state, accelerator)
    if accelerator.is_main_process:
        inputs = {"model": job.checkpoint.digest, "mask": job.provenance["mask_sha256"]}
        inputs |= {split: sha256(args.data_dir / f"{split}.jsonl") for split in SPLITS}
        outputs = {"adapter": adapter_digest(adapter)}
        write_json(
            report, {"run_id": args.run_id, **job.settings.model_dump(), **record, "inputs": inputs, "outputs": outputs}
        )
        state.unlink(missing_ok=True)


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    keep_freed_memory()
    run = Run.parse(args.run_id)
    if run.mode == NO_FINETUNE:
        raise InputError(f"{run.id} is not trained", f"choose one of {', '.join(TRAINED_MODES)}")
    job, accelerator = job_of(args, run), Accelerator(cpu=not torch.cuda.is_available())
    with locked(args.output_dir) if accelerator.is_main_process else nullcontext():
        write(args, job, accelerator)
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    run_script(main)
