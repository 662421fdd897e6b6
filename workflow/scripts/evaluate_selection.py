"""Evaluate a merged model on the selection rows of its task, by which a study chooses among its trainings.

    evaluate_selection.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini \\
        --output RUN_FOLDER/selection.json

prepare_selection.py must have chosen the rows. It writes the same fields as evaluate.py, without a perplexity and without
probes. The field `split` is `selection`, and `inputs` has the sha256 of all three files of rows. `overlap` is the share of the
selection rows that occur in the training or validation rows too, or in the texts of --calibration.
"""

import time
from pathlib import Path

from sparseft.command import run
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.inputs import load_checked, named_run, overlaps
from sparseft.language_model.hardware import keep_freed_memory, limit_threads, peak_memory
from sparseft.records.evaluation_record import SelectionRecord
from sparseft.records.record_file import write
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record
from sparseft.tasks.overlap import texts_of
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.selection_rows import SELECTION, read_selection


def main(
    *,
    checkpoint: Path,
    task: str,
    data_dir: Path,
    output: Path,
    run_id: str | None = None,
    batch_size: int = 32,
    threads: int = 1,
    calibration: list[Path] | None = None,
) -> None:
    """Check the inputs, evaluate the model, and write the record.

    Args:
        checkpoint: Hugging Face checkpoint folder
        task: name of the task
        data_dir: folder with the rows of all three splits
        output: the record, selection.json
        run_id: the run that the record names
        batch_size: sequences per forward pass
        threads: CPU threads; another number changes the last bits
        calibration: texts on which the mask was calibrated or the layers were reconstructed, for the overlap
    """
    texts = calibration or []
    check_apart([output], [checkpoint, data_dir, *texts])
    check_record(output, "selection")
    named_run(run_id, task)
    hold(output)
    limit_threads(threads)
    keep_freed_memory()
    begin = time.perf_counter()
    scored = find_task(data_dir, task)
    prepared, digests = read_splits(data_dir, scored)
    rows, rows_sha256 = read_selection(data_dir, scored, digests)
    model, tokenizer, hashes = load_checked(checkpoint)
    # The worked examples come from the training rows.
    record = evaluate(model, tokenizer, scored, {"train": prepared["train"], "validation": rows}, batch_size)
    cost = {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    seen = [texts_of(scored, split) for split in prepared.values()]
    shares, calibration_sha256 = overlaps({SELECTION: texts_of(scored, rows)}, seen, texts)
    record |= {"split": SELECTION, "overlap": shares[SELECTION]}
    inputs = {"model": hashes, "data": rows_sha256, **digests}
    if texts:
        inputs["calibration"] = calibration_sha256
    write(output, SelectionRecord(run_id=run_id, **record, **cost, inputs=inputs))


if __name__ == "__main__":
    run(main)
