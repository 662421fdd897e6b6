"""Write the physically smaller model of a structured mask: the pruned channels and heads are gone.

    compact.py --checkpoint RUN_FOLDER/model_dir --mask_path masks/smollm2/masks_sparsity50_structured.pt \\
        --output_dir RUN_FOLDER/compact

Writes a Hugging Face checkpoint that stock transformers loads, its logits the masked model's, and in it compact.json
with the sizes before and after and the hashes of all inputs and outputs.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import run_script
from sparseft.pruning.compact import compact
from sparseft.storage.locks import hold


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the merged checkpoint")
    parser.add_argument("--mask_path", type=Path, required=True, help="the structured mask that it was merged with")
    parser.add_argument("--output_dir", type=Path, required=True, help="the smaller checkpoint")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    hold(args.output_dir)
    report = compact(Checkpoint(args.checkpoint), args.mask_path, args.output_dir)
    before, after = report["before"], report["after"]
    print(f"{before['parameters']} -> {after['parameters']} parameters, {before['bytes']} -> {after['bytes']} bytes",
          file=sys.stderr)  # fmt: skip
    return 0


if __name__ == "__main__":
    run_script(main)
