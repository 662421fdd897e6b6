"""Evaluate a merged model on the selection rows of its task, by which a study chooses among its trainings.

    evaluate_selection.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini \\
        --output RUN_FOLDER/selection.json

prepare_selection.py must have chosen the rows. It writes the same fields as evaluate.py, without a perplexity and without
probes. The field `split` is `selection`, and `inputs` has the sha256 of all three files of rows. `overlap` is the share of the
selection rows that occur in the training or validation rows too, or in the texts of --calibration.
"""

import time
from pathlib import Path

from sparseft.command import Flags, run
from sparseft.data.overlap import texts_of
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.selection import SELECTION, read_selection
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.inputs import EvaluationFlags, begin, load_checked, overlaps
from sparseft.language_model.hardware import peak_memory
from sparseft.records.evaluation_record import SelectionRecord
from sparseft.records.record_file import write


def main(*, checkpoint: Path, flags: Flags[EvaluationFlags], calibration: tuple[Path, ...] = ()) -> None:
    """Check the inputs, evaluate the model, and write the record.

    Args:
        checkpoint: Hugging Face checkpoint folder
        calibration: texts on which the mask was calibrated or the layers were reconstructed, for the overlap
    """
    begin(flags, "selection", [checkpoint, *calibration])
    start = time.perf_counter()
    task = find_task(flags.data_dir, flags.task)
    prepared, digests = read_splits(flags.data_dir, task)
    rows, rows_sha256 = read_selection(flags.data_dir, task, digests)
    model, tokenizer, hashes = load_checked(checkpoint, flags)
    # The worked examples come from the training rows.
    record = evaluate(model, tokenizer, task, {"train": prepared["train"], "validation": rows}, flags.batch_size)
    cost = {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak_memory(model.device)}
    seen = [texts_of(task, split) for split in prepared.values()]
    shares, calibration_sha256 = overlaps({SELECTION: texts_of(task, rows)}, seen, calibration)
    record |= {"split": SELECTION, "overlap": shares[SELECTION]}
    inputs = {"model": hashes, "data": rows_sha256, **digests}
    if calibration:
        inputs["calibration"] = calibration_sha256
    write(flags.output, SelectionRecord(run_id=flags.run_id, **record, **cost, inputs=inputs))


if __name__ == "__main__":
    run(main)
