"""Evaluate a run's model before the merge. The change by the merge is the train-merge gap.

    evaluate_adapter.py --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --adapter RUN_FOLDER/adapter --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/before_merge.json

It writes the same fields as evaluate.py.
"""

import time
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.command import Flags, run
from sparseft.data.prepared import find_task, read_splits
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.inputs import EvaluationFlags, begin
from sparseft.language_model.hardware import choose_device, peak_memory
from sparseft.lora.adapted_model import trained_model
from sparseft.masks.mask_file import read_checked_mask
from sparseft.records.evaluation_record import BeforeMergeRecord
from sparseft.records.record_file import write


def main(*, model_path: Path, mask_path: Path, adapter: Path, flags: Flags[EvaluationFlags]) -> None:
    """Check the inputs, evaluate the model with its adapter, and write the record.

    Args:
        model_path: the base model
        mask_path: the mask that the adapter was trained with
        adapter: the adapter folder of train.py
    """
    named = begin(flags, "before_merge", [model_path, mask_path, adapter])
    start = time.perf_counter()
    checkpoint = Checkpoint(model_path)
    task = find_task(flags.data_dir, flags.task)
    rows, digests = read_splits(flags.data_dir, task)
    mask, mask_sha256 = read_checked_mask(mask_path, checkpoint, named)
    places = {"run": named, "rooms": flags.rooms()}
    model, tokenizer, adapter_sha256 = trained_model(checkpoint, mask, mask_sha256, adapter, choose_device(), **places)
    record = evaluate(model, tokenizer, task, rows, flags.batch_size)
    inputs = {"model": checkpoint.digest, "mask": mask_sha256, "adapter": adapter_sha256}
    inputs |= {"data": digests["validation"], "train": digests["train"]}
    cost = {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak_memory(model.device)}
    write(flags.output, BeforeMergeRecord(run_id=flags.run_id, **record, **cost, inputs=inputs))


if __name__ == "__main__":
    run(main)
