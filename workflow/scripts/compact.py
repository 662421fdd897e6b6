"""Write the smaller model of a structured mask, without the pruned channels and heads.

    compact.py --checkpoint RUN_FOLDER/model_dir --mask_path masks/smollm2/masks_sparsity50_structured.pt \\
        --output_dir RUN_FOLDER/compact

Writes a Hugging Face checkpoint that stock transformers loads. Its logits are those of the masked model. The file
compact.json in it has the sizes before and after, and the hashes of all inputs and outputs.
"""

import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.command import run
from sparseft.pruning.compact import compact
from sparseft.storage.locks import hold


def main(*, checkpoint: Path, mask_path: Path, output_dir: Path) -> None:
    """Write the smaller model, and print the sizes.

    Args:
        checkpoint: the merged checkpoint
        mask_path: the structured mask that it was merged with
        output_dir: the smaller checkpoint
    """
    hold(output_dir)
    report = compact(Checkpoint(checkpoint), mask_path, output_dir)
    before = report["before"]
    after = report["after"]
    print(
        f"{before['parameters']} -> {after['parameters']} parameters, {before['bytes']} -> {after['bytes']} bytes",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(main)
