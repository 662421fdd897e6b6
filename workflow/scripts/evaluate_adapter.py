"""Evaluate a run's model before the merge. The change by the merge is the train-merge gap.

    evaluate_adapter.py --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --adapter RUN_FOLDER/adapter --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/before_merge.json

It writes the same fields as evaluate.py.
"""

import time
from pathlib import Path

from sparseft.backends.torch import trained_model
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.command import run
from sparseft.errors import InputError
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.inputs import named_run
from sparseft.language_model.hardware import choose_device, keep_freed_memory, limit_threads, peak_memory
from sparseft.masks.mask_file import check_mask, check_run, read_mask
from sparseft.records.evaluation_record import BeforeMergeRecord
from sparseft.records.record_file import write
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record
from sparseft.study.grid import NO_FINETUNE
from sparseft.tasks.prepared import find_task, read_splits


def main(
    *,
    model_path: Path,
    mask_path: Path,
    adapter: Path,
    task: str,
    data_dir: Path,
    output: Path,
    run_id: str | None = None,
    batch_size: int = 32,
    threads: int = 1,
) -> None:
    """Check the inputs, evaluate the model with its adapter, and write the record.

    Args:
        model_path: the base model
        mask_path: the mask that the adapter was trained with
        adapter: the adapter folder of train.py
        task: name of the task
        data_dir: folder with train.jsonl and validation.jsonl
        output: the record, before_merge.json
        run_id: the run that the mask must belong to and that the record names
        batch_size: sequences per forward pass
        threads: CPU threads; another number changes the last bits
    """
    check_apart([output], [model_path, mask_path, adapter, data_dir])
    check_record(output, "before_merge")
    named = named_run(run_id, task)
    if named and named.mode == NO_FINETUNE:
        raise InputError(f"{named.id} is not trained", "evaluate its merged model with evaluate.py")
    hold(output)
    limit_threads(threads)
    keep_freed_memory()
    begin = time.perf_counter()
    checkpoint = Checkpoint(model_path)
    mask = read_mask(mask_path)
    mask_sha256 = sha256(mask_path)
    scored = find_task(data_dir, task)
    rows, digests = read_splits(data_dir, scored)
    check_mask(mask, mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    if named:
        check_run(mask, mask_path, named)
    model, tokenizer, adapter_sha256 = trained_model(checkpoint, mask, mask_sha256, adapter, choose_device(), named)
    record = evaluate(model, tokenizer, scored, rows, batch_size)
    inputs = {"model": checkpoint.digest, "mask": mask_sha256, "adapter": adapter_sha256}
    inputs |= {"data": digests["validation"], "train": digests["train"]}
    cost = {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    write(output, BeforeMergeRecord(run_id=run_id, **record, **cost, inputs=inputs))


if __name__ == "__main__":
    run(main)
