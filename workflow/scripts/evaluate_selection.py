"""Evaluate a merged model on the selection rows of its task, by which a study chooses among its trainings.

    evaluate_selection.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini \\
        --output RUN_FOLDER/selection.json

prepare_selection.py must have chosen the rows. It writes the same fields as evaluate.py, without a perplexity and without
probes. The field `split` is `selection`, and `inputs` has the sha256 of all three files of rows. `overlap` is the share of the
selection rows that occur in the training or validation rows too, or in the texts of --calibration.
"""

import argparse
import hashlib
import time
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError, run_script
from sparseft.evaluation.evaluate import evaluate
from sparseft.language_model.hardware import choose_device, keep_freed_memory, limit_threads, peak_memory
from sparseft.language_model.model import load_model
from sparseft.records.evaluation_record import SelectionRecord
from sparseft.records.record_file import write
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_model, check_record
from sparseft.study.grid import Run
from sparseft.tasks.documents import each_document
from sparseft.tasks.overlap import Texts, shares_found, texts_of
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.selection_rows import (
    ROWS_FILE,
    SELECTION,
    in_the_place_of_validation,
    read_selection,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Hugging Face checkpoint folder")
    parser.add_argument("--run_id", help="the run that the record names")
    parser.add_argument("--task", required=True, help="name of the task")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with the rows of all three splits")
    parser.add_argument("--batch_size", type=int, default=32, help="sequences per forward pass")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number changes the last bits")
    parser.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        default=[],
        help="texts on which the mask was calibrated or the layers were reconstructed, for the overlap",
    )
    parser.add_argument("--output", type=Path, required=True, help="the record, selection.json")
    return parser.parse_args()


def main() -> int:
    """Check the inputs, evaluate the model, and write the record."""
    args = parse_args()
    check_apart([args.output], [args.checkpoint, args.data_dir, *args.calibration])
    check_record(args.output, "selection")
    if args.run_id is not None and Run.parse(args.run_id).task != args.task:
        raise InputError(f"--task {args.task}: not the task of {args.run_id}", "correct --task or --run_id")
    hold(args.output)
    limit_threads(args.threads)
    keep_freed_memory()
    begin = time.perf_counter()
    task = find_task(args.data_dir, args.task)
    prepared, digests = read_splits(args.data_dir, task)
    rows, rows_sha256 = read_selection(args.data_dir, task, prepared, digests)
    checkpoint = Checkpoint(args.checkpoint)
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    checkpoint.check_manifest(hashes)
    model, tokenizer = load_model(checkpoint.folder, choose_device())
    try:
        # The worked examples come from the training rows.
        record = evaluate(model, tokenizer, task, {"train": prepared["train"], "validation": rows}, args.batch_size)
    except InputError as error:
        raise in_the_place_of_validation(error, args.data_dir / ROWS_FILE) from None
    cost = {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    inputs = {"model": hashes, "data": rows_sha256, **digests}
    texts_sha256 = [hashlib.sha256() for _ in args.calibration]
    seen = [Texts(each_document(*file), is_one_text=True) for file in zip(args.calibration, texts_sha256, strict=True)]
    seen += [texts_of(task, split) for split in prepared.values()]
    record |= {"split": SELECTION, "overlap": shares_found({SELECTION: texts_of(task, rows)}, seen)[SELECTION]}
    if args.calibration:
        inputs["calibration"] = [digest.hexdigest() for digest in texts_sha256]
    write(args.output, SelectionRecord(run_id=args.run_id, **record, **cost, inputs=inputs))
    return 0


if __name__ == "__main__":
    run_script(main)
