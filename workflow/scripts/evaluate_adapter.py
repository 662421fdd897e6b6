"""Evaluate a run's model before the merge. The change by the merge is the train-merge gap.

    evaluate_adapter.py --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --adapter RUN_FOLDER/adapter --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/before_merge.json

It writes the same fields as evaluate.py. If you give the records of the merged model with --merge and --evaluation, it copies
their evaluation if the merge kept every bit (sparse_to_sparse on a CPU). The field `taken_from` then names the source.
"""

import argparse
import time
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError, run_script
from sparseft.evaluation.before_merge import take_over
from sparseft.masks.mask_file import Mask, check_mask, check_run, read_mask
from sparseft.records.evaluation_record import BeforeMergeRecord
from sparseft.records.record_file import write
from sparseft.storage.adapter_files import adapter_digest
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record
from sparseft.study.grid import NO_FINETUNE, Run
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.task import Row


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", help="the run that the mask must belong to and that the record names")
    parser.add_argument("--model_path", type=Path, required=True, help="the base model")
    parser.add_argument("--mask_path", type=Path, required=True, help="the mask that the adapter was trained with")
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter folder of train.py")
    parser.add_argument("--task", required=True, help="name of the task")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.jsonl and validation.jsonl")
    parser.add_argument("--batch_size", type=int, default=32, help="sequences per forward pass")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number changes the last bits")
    parser.add_argument("--merge", type=Path, help="merge.json of the merged model; needs --evaluation")
    parser.add_argument("--evaluation", type=Path, help="evaluation.json of the merged model; needs --merge")
    parser.add_argument("--output", type=Path, required=True, help="the record, before_merge.json")
    args = parser.parse_args()
    if (args.merge is None) != (args.evaluation is None):
        parser.error("--merge and --evaluation need each other; give both or neither")
    return args


def evaluated(
    args: argparse.Namespace,
    run: Run | None,
    checkpoint: Checkpoint,
    mask: Mask,
    mask_sha256: str,
    rows: dict[str, list[Row]],
) -> tuple[dict, str]:
    """Evaluate the model with its adapter; return the content of before_merge.json and the adapter's digest."""
    # These imports take seconds, and copying an evaluation does not need them.
    from sparseft.backends.torch import trained_model
    from sparseft.evaluation.evaluate import evaluate
    from sparseft.language_model.hardware import choose_device, keep_freed_memory, limit_threads, peak_memory

    limit_threads(args.threads)
    keep_freed_memory()
    model, tokenizer, adapter = trained_model(checkpoint, mask, mask_sha256, args.adapter, choose_device(), run)
    record = evaluate(model, tokenizer, find_task(args.data_dir, args.task), rows, args.batch_size)
    return record | {"peak_memory_bytes": peak_memory(model.device)}, adapter


def main() -> int:
    """Copy the merged model's evaluation or evaluate the model, and write the record."""
    args = parse_args()
    sources = [args.model_path, args.mask_path, args.adapter, args.data_dir, args.merge, args.evaluation]
    check_apart([args.output], sources)
    check_record(args.output, "before_merge")
    run = None if args.run_id is None else Run.parse(args.run_id)
    if run and run.mode == NO_FINETUNE:
        raise InputError(f"{run.id} is not trained", "evaluate its merged model with evaluate.py")
    if run and run.task != args.task:
        raise InputError(f"--task {args.task}: not the task of {run.id}", "correct --task or --run_id")
    hold(args.output)
    begin = time.perf_counter()
    checkpoint = Checkpoint(args.model_path)
    mask = read_mask(args.mask_path)
    mask_sha256 = sha256(args.mask_path)
    rows, rows_sha256 = read_splits(args.data_dir, find_task(args.data_dir, args.task))
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    if run:
        check_run(mask, args.mask_path, run)
    inputs = {
        "model": checkpoint.digest,
        "mask": mask_sha256,
        "data": rows_sha256["validation"],
        "train": rows_sha256["train"],
    }
    record = None
    if args.merge:
        inputs["adapter"] = adapter_digest(args.adapter)
        record = take_over(args.merge, args.evaluation, args.run_id, args.task, inputs)
    if record is None:
        record, inputs["adapter"] = evaluated(args, run, checkpoint, mask, mask_sha256, rows)
    seconds = time.perf_counter() - begin
    write(args.output, BeforeMergeRecord(run_id=args.run_id, **record, seconds=seconds, inputs=inputs))
    return 0


if __name__ == "__main__":
    run_script(main)
