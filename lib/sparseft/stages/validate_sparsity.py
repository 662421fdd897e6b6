"""Prove that a checkpoint is sparse: compare every weight of every prunable layer with its mask.

    validate_sparsity.py --checkpoint RUN_FOLDER/model_dir --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \
        --base models/smollm2 --output RUN_FOLDER/validation_report.json

Writes the report, and exits with 0 if the proof passed and with 1 if it failed. Without --base, or with a --tolerance
above 0, the report and the line on stderr say what was not checked.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from sparseft.axes.grid import Run
from sparseft.axes.modes import get_mode
from sparseft.common.command import Folder
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.stages.merge import settings  # noqa: F401
from sparseft.storage.hashes import sha256
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study.planning.needs import of_one_model
from sparseft.training.lora.merge_record import check_model

# Raise it when the results change.
VERSION = 1
needs = of_one_model


def run(
    *,
    checkpoint: Path,
    mask_path: Path,
    output: Path,
    base: Folder | None = None,
    tolerance: Annotated[float, Parameter(validator=Number(gte=0, lte=1e-3))] = 0.0,
    run_id: str | None = None,
) -> int:
    """Check the inputs, validate, write the report, and print the verdict.

    Args:
        checkpoint: Hugging Face checkpoint folder, or FILE.mdl[@FOLDER]
        mask_path: the mask that the checkpoint must obey
        output: the report
        base: the base model; the mask must be computed from it, and each tensor outside the mask must equal its tensor
        tolerance: largest absolute value that passes as zero
        run_id: the run that the mask must belong to and that the record names
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.checkpoints.modelzoo_checkpoint import open_checkpoint
    from sparseft.pruning.masks.mask_file import check_run, read_mask
    from sparseft.pruning.masks.validation import validate

    model = open_checkpoint(checkpoint)
    original = Checkpoint(base) if base else None
    claim_record(output, "validation", [mask_path, model.folder, *model.files, base])
    mask = read_mask(mask_path)
    # A merged model and a prepared base must be what was recorded when they were written. Both are hashed at the same
    # time.
    with ThreadPoolExecutor(2) as threads:
        hashes, *base_hashes = threads.map(Checkpoint.hashes, filter(None, [model, original]))
    merged = check_model(model.folder, hashes)
    inputs = {"mask": sha256(mask_path), "checkpoint": hashes, "base": None}
    if original:
        original.check_manifest(*base_hashes)
        inputs["base"] = original.digest_of(*base_hashes)
    named = Run.parse(run_id) if run_id else None
    if named:
        check_run(mask, mask_path, named)
    trained = {"trained_outside": merged.trained_outside} if merged else {}
    lifts_mask = bool(named and get_mode(named.mode).lifts_mask)
    report = validate(model, mask, tolerance=tolerance, base=original, lifts_mask=lifts_mask, **trained)
    record = ValidationRecord(run_id=run_id, **report, inputs=inputs)
    write(output, record)
    line = (
        f"{'passed' if record.passed else 'FAILED'}: {record.layers_checked} of {record.layers_expected}"
        f" layers checked, {record.violations} violations, largest pruned weight {record.max_abs_pruned:g}"
    )
    print(" ".join([f"{line}.", *record.not_checked]), file=sys.stderr)
    return 0 if record.passed else 1
