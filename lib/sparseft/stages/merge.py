"""Merge an adapter into its pruned base: W' = (W + alpha/r B A) * M, or trained weights W~: W' = W~ * M. Without
--adapter: W' = W * M.

    merge.py --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \
        --adapter RUN_FOLDER/adapter --output_dir RUN_FOLDER/model_dir --report RUN_FOLDER/merge.json

Writes a Hugging Face checkpoint in the base's dtype and layout, and merge.json with the hashes of all inputs and
outputs.
"""

import time
from pathlib import Path
from typing import Any

from sparseft.axes.grid import NO_FINETUNE, RUN_ID, Run
from sparseft.common.command import Folder
from sparseft.common.errors import InputError
from sparseft.storage.outputs import claim
from sparseft.storage.record import claim_record, write_record_of
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf, matrix_by_matrix
from sparseft.training.lora.merge_record import MergeRecord


def settings(config: Config, wildcards: Any) -> dict:
    """Return the run, whose mode decides what is merged, and what must be zero."""
    return {"run_id": RUN_ID.format(**vars(wildcards))}


# Raise it when the results change.
VERSION = 1


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a merge needs: a matrix at a time, and the disk of the merged model.

    It uses no GPU, but takes one, and as many threads as an evaluation, so that no merge runs ahead of the evaluations
    and fills the disk."""
    model = sizes_of(job.model)
    kept = {"merged models": model.bytes} if config.keep_merged else {}
    return matrix_by_matrix(model, gpus=1, threads=config.resources.threads, kept=kept, temporary=model.bytes)


def run(
    *,
    model_path: Folder,
    mask_path: Path,
    output_dir: Path,
    report: Path,
    adapter: Path | None = None,
    run_id: str | None = None,
) -> None:
    """Check the inputs, merge, and write the record.

    Args:
        model_path: folder of the prepared model
        mask_path: the mask that the model is pruned with
        output_dir: the merged checkpoint
        report: the record, merge.json
        adapter: the folder adapter/ or weights/ that a training wrote; without it the model is only pruned
        run_id: the run that the mask must belong to and that the record names
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.hardware import limit_threads
    from sparseft.pruning.masks.mask_file import read_checked_mask
    from sparseft.training.lora.merge import merge

    limit_threads(1)
    inputs = [model_path, mask_path, adapter]
    # A merged model has no record in it, so only a new or an empty folder is ours.
    claim(output_dir, None, "", inputs)
    claim_record(report, "merge", [output_dir, *inputs])
    named = Run.parse(run_id) if run_id else None
    if named and (named.mode == NO_FINETUNE) != (adapter is None):
        raise InputError(f"--adapter {adapter} does not fit {named.id}", "give it for a trained run only")
    start = time.perf_counter()
    checkpoint = Checkpoint(model_path)
    mask, mask_sha256 = read_checked_mask(mask_path, checkpoint, named)
    merged = merge(checkpoint, mask, mask_sha256, adapter, output_dir, named)
    seconds = time.perf_counter() - start
    write_record_of(output_dir, report, MergeRecord(run_id=run_id, **merged, seconds=seconds).model_dump())
