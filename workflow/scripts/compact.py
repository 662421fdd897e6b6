"""Write the smaller model of a structured mask, without the pruned channels and heads.

    compact.py --checkpoint RUN_FOLDER/model_dir --mask_path masks/smollm2/masks_sparsity50_structured.pt \\
        --output_dir RUN_FOLDER/compact

Writes a Hugging Face checkpoint that stock transformers loads. Its logits are those of the masked model. The file
compact.json in it has the sizes before and after, and the hashes of all inputs and outputs.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import run_script
from sparseft.pruning.compact import compact
from sparseft.storage.locks import hold


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the merged checkpoint")
    parser.add_argument("--mask_path", type=Path, required=True, help="the structured mask that it was merged with")
    parser.add_argument("--output_dir", type=Path, required=True, help="the smaller checkpoint")
    return parser.parse_args()


def main() -> int:
    """Write the smaller model, and print the sizes."""
    args = parse_args()
    hold(args.output_dir)
    report = compact(Checkpoint(args.checkpoint), args.mask_path, args.output_dir)
    before = report["before"]
    after = report["after"]
    print(
        f"{before['parameters']} -> {after['parameters']} parameters, {before['bytes']} -> {after['bytes']} bytes",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run_script(main)
