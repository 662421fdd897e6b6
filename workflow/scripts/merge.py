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
from sparseft.files import hold, sha256, whole_with
from sparseft.grid import Run
from sparseft.lora.merge import merge
from sparseft.pruning.mask_ops import check_mask, check_run, read_mask
from sparseft.record import write_record
from sparseft.training.hardware import limit_threads


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", help="whose mask and record these are to be")
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--mask_path", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, help="adapter folder; without it the model is pruned only")
    parser.add_argument("--output_dir", type=Path, required=True, help="the merged checkpoint")
    parser.add_argument("--report", type=Path, required=True, help="merge.json")
    return parser.parse_args()


def check_outputs(args: argparse.Namespace) -> None:
    """Raises InputError where what is written would replace what is read, or the one output the other."""
    inputs = [path.resolve() for path in (args.model_path, args.mask_path, args.adapter) if path]
    for output in (args.output_dir.resolve(), args.report.resolve()):
        if any(path in (output, *output.parents) for path in inputs):
            raise InputError(f"{output} is an input, or lies in one", "name another place")
    if args.output_dir.resolve() in (args.report.resolve(), *args.report.resolve().parents) or args.report.is_dir():
        raise InputError(f"{args.report}: no place for the report", "name a file outside --output_dir")


def main() -> int:
    args = parse_args()
    limit_threads(1)
    check_outputs(args)
    hold(args.output_dir)
    begin = time.perf_counter()
    checkpoint, mask, mask_sha256 = Checkpoint(args.model_path), read_mask(args.mask_path), sha256(args.mask_path)
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    if args.run_id:
        check_run(mask, args.mask_path, Run.parse(args.run_id))
    merged = merge(checkpoint, mask, mask_sha256, args.adapter, args.output_dir)
    inputs = {"model": checkpoint.digest, "mask": mask_sha256, "adapter": merged.pop("adapter")}
    record = {"run_id": args.run_id, "inputs": inputs, **merged, "seconds": time.perf_counter() - begin}
    with whole_with(args.output_dir):
        write_record(args.report, record)
    return 0


if __name__ == "__main__":
    run_script(main)
