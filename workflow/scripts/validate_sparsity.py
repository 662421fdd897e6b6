"""Prove that a checkpoint is sparse: compare every weight of every prunable layer with its mask.

    validate_sparsity.py --checkpoint RUN_FOLDER/model_dir --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --base models/smollm2 --output RUN_FOLDER/validation_report.json

Writes the report, and exits with 0 if the proof passed and with 1 if it failed. Without --base, or with a --tolerance above
0, the report and the line on stderr say what was not checked.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.modelzoo_checkpoint import open_checkpoint
from sparseft.errors import InputError, run_script
from sparseft.masks.mask_file import check_run, read_mask
from sparseft.masks.validation import validate
from sparseft.records.record_file import write
from sparseft.records.validation_record import ValidationRecord
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_model, check_record
from sparseft.study.grid import Run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="Hugging Face checkpoint folder, or FILE.mdl[@FOLDER]"
    )
    parser.add_argument("--run_id", help="the run that the mask must belong to and that the record names")
    parser.add_argument("--mask_path", type=Path, required=True, help="the mask that the checkpoint must obey")
    parser.add_argument("--output", type=Path, required=True, help="the report")
    parser.add_argument(
        "--base",
        type=Path,
        help="the base model; the mask must be computed from it, and each tensor outside the mask must equal its tensor",
    )
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest absolute value that passes as zero")
    return parser.parse_args()


def hash_inputs(mask: Path, checkpoint: Checkpoint, base: Checkpoint | None) -> dict:
    """Hash all files as they are now. Return the sha256 of the mask and of the checkpoint's files, and the base's digest.

    Raises InputError if a merged model or a prepared base is not what was recorded when it was written."""
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    digest = None
    if base:
        base_hashes = base.hashes()
        base.check_manifest(base_hashes)
        digest = base.digest_of(base_hashes)
    return {"mask": sha256(mask), "checkpoint": hashes, "base": digest}


def main() -> int:
    """Check the inputs, validate, write the report, and print the verdict."""
    args = parse_args()
    if not 0 <= args.tolerance <= 1e-3:
        raise InputError(f"--tolerance {args.tolerance}: out of range", "give a number from 0 to 0.001")
    checkpoint = open_checkpoint(args.checkpoint)
    base = Checkpoint(args.base) if args.base else None
    check_apart([args.output], [args.mask_path, checkpoint.folder, *checkpoint.files, args.base])
    check_record(args.output, "validation")
    hold(args.output)
    mask = read_mask(args.mask_path)
    inputs = hash_inputs(args.mask_path, checkpoint, base)
    if args.run_id is not None:
        check_run(mask, args.mask_path, Run.parse(args.run_id))
    report = validate(checkpoint, mask, tolerance=args.tolerance, base=base)
    record = ValidationRecord(run_id=args.run_id, **report, inputs=inputs)
    write(args.output, record)
    verdict = "passed" if record.passed else "FAILED"
    line = (
        f"{verdict}: {record.layers_checked} of {record.layers_expected} layers checked, "
        f"{record.violations} violations, largest pruned weight {record.max_abs_pruned:g}"
    )
    print(" ".join([f"{line}.", *record.not_checked]), file=sys.stderr)
    return 0 if record.passed else 1


if __name__ == "__main__":
    run_script(main)
