"""Merge an adapter into its pruned base: W' = (W + alpha/r B A) * M. Without --adapter: W' = W * M.

    merge.py --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --adapter RUN_FOLDER/adapter --output_dir RUN_FOLDER/model_dir --report RUN_FOLDER/merge.json

Writes a Hugging Face checkpoint in the base's dtype and layout, and merge.json with the hashes of all inputs and outputs.
"""

import argparse
import time
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError, run_script
from sparseft.language_model.hardware import limit_threads
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import check_mask, check_run, read_mask
from sparseft.records.merge_record import MergeRecord
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_replaceable
from sparseft.storage.record import check_record, write_record_of
from sparseft.study.grid import NO_FINETUNE, Run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", help="the run that the mask must belong to and that the record names")
    parser.add_argument("--model_path", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--mask_path", type=Path, required=True, help="the mask that the model is pruned with")
    parser.add_argument("--adapter", type=Path, help="the adapter folder; without it the model is only pruned")
    parser.add_argument("--output_dir", type=Path, required=True, help="the merged checkpoint")
    parser.add_argument("--report", type=Path, required=True, help="the record, merge.json")
    return parser.parse_args()


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InputError if an output would replace an input, the other output, or what this program did not write."""
    check_apart([args.output_dir, args.report], [args.model_path, args.mask_path, args.adapter])
    report = args.report.resolve()
    if args.output_dir.resolve() in (report, *report.parents):
        raise InputError(f"{args.report}: no file can be written there", "name a file outside --output_dir")
    check_replaceable(args.output_dir, "merged model")
    check_record(args.report, "merge")


def run_of(args: argparse.Namespace) -> Run | None:
    """Return the run that --run_id names. Raises InputError if a trained run has no adapter, or an untrained one has one."""
    if args.run_id is None:
        return None
    run = Run.parse(args.run_id)
    if run.mode == NO_FINETUNE and args.adapter:
        raise InputError(
            f"--adapter {args.adapter}: {run.id} is not trained", "leave --adapter out, or correct --run_id"
        )
    if run.mode != NO_FINETUNE and not args.adapter:
        raise InputError(f"{run.id} is trained, and no --adapter is given", "give its adapter, or correct --run_id")
    return run


def main() -> int:
    """Check the inputs, merge, and write the record."""
    args = parse_args()
    limit_threads(1)
    check_outputs(args)
    run = run_of(args)
    hold(args.output_dir)
    start = time.perf_counter()
    checkpoint = Checkpoint(args.model_path)
    mask = read_mask(args.mask_path)
    mask_sha256 = sha256(args.mask_path)
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    if run:
        check_run(mask, args.mask_path, run)
    merged = merge(checkpoint, mask, mask_sha256, args.adapter, args.output_dir, run)
    inputs = {"model": checkpoint.digest, "mask": mask_sha256, "adapter": merged.pop("adapter")}
    record = MergeRecord(run_id=args.run_id, inputs=inputs, **merged, seconds=time.perf_counter() - start)
    write_record_of(args.output_dir, args.report, record.model_dump())
    return 0


if __name__ == "__main__":
    run_script(main)
