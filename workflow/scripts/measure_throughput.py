"""Measure the speed and the memory of one cell's training against the batch size.

    measure_throughput.py --cell smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse \\
        --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \\
        --data_dir data/boolq_mini --batch_sizes 4 8 16 32 --memory_mb 8000 --output CELL.json

Writes every repeat of every batch size. A batch size that does not fit into memory is recorded as such. Let nothing else run
meanwhile.
"""

import argparse
import signal
import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.errors import InputError, run_script
from sparseft.evaluation.throughput import MeasuredTraining, measure
from sparseft.language_model.hardware import choose_device, device_name, limit_threads, versions
from sparseft.masks.mask_file import check_mask, check_run, read_mask
from sparseft.records.record_file import write
from sparseft.records.throughput_record import ThroughputRecord
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record
from sparseft.study.backends import TORCH
from sparseft.study.config import Resources, Throughput, Training, add_flags
from sparseft.study.grid import TASK_MODES, Cell
from sparseft.study.section import parse_section
from sparseft.tasks.prepared import find_task, read_prepared

SETTINGS = [name for name in Training.model_fields if name not in Throughput.DECIDED]
RECORDED = ("batch_sizes", "sequence_length", "warmup_steps", "steps", "repeats")
THROUGHPUT = (*RECORDED, "memory_mb")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", required=True, help="name of a run without its seed")
    parser.add_argument("--model_path", type=Path, required=True, help="folder of the prepared model")
    parser.add_argument("--mask_path", type=Path, required=True, help="the mask that the model is pruned with")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="the measurement")
    add_flags(parser, Throughput, THROUGHPUT)
    add_flags(parser, Training, SETTINGS)
    add_flags(parser, Resources, ["threads"])
    return parser.parse_args()


def training_of(args: argparse.Namespace, cell: Cell) -> tuple[MeasuredTraining, dict[str, str]]:
    """Return the cell's training with its checked inputs, and their digests. Raises InputError if one does not fit."""
    given = vars(args)
    throughput = parse_section(Throughput, {name: given[name] for name in THROUGHPUT}, "throughput")
    settings = parse_section(Training, {name: given[name] for name in SETTINGS} | {"save_every": 0}, "training")
    resources = parse_section(Resources, {"threads": given["threads"]}, "resources")
    settings.check_measured()
    task = find_task(args.data_dir, cell.task)
    checkpoint = Checkpoint(args.model_path)
    mask = read_mask(args.mask_path)
    mask_sha256 = sha256(args.mask_path)
    shapes = prunable_shapes(checkpoint)
    settings.check(cell.mode, {layer.rpartition(".")[2] for layer in shapes})
    check_run(mask, args.mask_path, cell)
    check_mask(mask, args.mask_path, shapes, checkpoint.digest)
    rows, train_sha256 = read_prepared(args.data_dir / "train.jsonl", task)
    training = MeasuredTraining(
        checkpoint=checkpoint,
        mask=args.mask_path,
        mode=cell.mode,
        settings=settings,
        throughput=throughput,
        task=task.name,
        data=args.data_dir,
        rows=rows,
        resources=resources,
    )
    return training, {"model": checkpoint.digest, "mask": mask_sha256, "train": train_sha256}


def main() -> int:
    args = parse_args()
    # An exit ends the measuring process too, and a signal without a handler would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check_apart([args.output], [args.model_path, args.mask_path, args.data_dir])
    check_record(args.output, "throughput")
    hold(args.output)
    cell = Cell.parse(args.cell)
    if cell.mode not in TASK_MODES:
        raise InputError(f"{cell.id} is not trained on its task", f"choose one of {', '.join(TASK_MODES)}")
    training, inputs = training_of(args, cell)
    # The number of threads is part of the device's name.
    limit_threads(training.resources.threads)
    device = choose_device()
    record = ThroughputRecord(
        cell=cell.id,
        backend=TORCH.name,
        device=device_name(device),
        threads=training.resources.threads,
        processes=1,
        **training.memory_record(device),
        **training.settings.model_dump(include=set(SETTINGS)),
        **training.throughput.model_dump(include=set(RECORDED)),
        batches=measure(training),
        versions=versions(),
        inputs=inputs,
    )
    write(args.output, record)
    return 0


if __name__ == "__main__":
    run_script(main)
