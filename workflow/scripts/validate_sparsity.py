"""Prove that a checkpoint is sparse: every weight of every prunable layer against its mask.

    validate_sparsity.py --checkpoint RUN_FOLDER/model_dir --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --base models/smollm2 --output RUN_FOLDER/validation_report.json

Writes the report; exits 0 if it passed, 1 if it did not.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint, weights_digest
from sparseft.errors import InputError, run_script
from sparseft.files import check_writable, sha256, write_json
from sparseft.modelzoo.checkpoint import open_checkpoint
from sparseft.pruning.mask_ops import read_mask
from sparseft.validation import validate


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="Hugging Face checkpoint folder, or FILE.mdl[@FOLDER]"
    )
    parser.add_argument("--mask_path", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the report")
    parser.add_argument("--base", type=Path, help="the base: tensors outside the mask must equal its bytes")
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest |w| that passes as zero")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    check_writable(args.output)
    if not 0 <= args.tolerance <= 1e-3:
        raise InputError(f"--tolerance {args.tolerance}: not the size of a zero", "give a number from 0 to 0.001")
    checkpoint, base = open_checkpoint(args.checkpoint), Checkpoint(args.base) if args.base else None
    folders = [checkpoint.folder, *([base.folder] if base else [])]
    read = [args.mask_path, *checkpoint.files, *(file for folder in folders for file in folder.glob("*"))]
    if args.output.resolve() in {path.resolve() for path in read}:
        raise InputError(f"{args.output} is one of the inputs", "name another file for the report")
    report = validate(checkpoint, read_mask(args.mask_path), tolerance=args.tolerance, base=base)
    report["inputs"] = {
        "mask": sha256(args.mask_path),
        "checkpoint": checkpoint.hashes(),
        "base": weights_digest(base.hashes()) if base else None,  # as it is now, whatever its manifest says,
    }
    write_json(args.output, report)
    verdict = "passed" if report["passed"] else "FAILED"
    print(f"{verdict}: {report['layers_checked']} of {report['layers_expected']} layers checked, "
          f"{report['violations']} violations, largest {report['max_abs_violation']:g}", file=sys.stderr)  # fmt: skip
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    run_script(main)
