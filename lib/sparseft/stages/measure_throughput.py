"""Measure the speed and the memory of one cell's training against the batch size.

    measure_throughput.py --cell smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse \
        --model_path models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \
        --data_dir data/boolq_mini --batch_sizes 4 8 16 32 --memory_mb 8000 --output CELL.json

Writes every repeat of every batch size. A batch size that does not fit into memory is recorded as such. Let nothing
else run meanwhile. """

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import create_model

from sparseft.axes.grid import CELL_ID, TASK_MODES, Cell, training_name
from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.errors import InputError
from sparseft.common.section import Section
from sparseft.data.prepared import find_task, read_prepared
from sparseft.evaluation.throughput_record import ThroughputRecord
from sparseft.models.language_model.gpus import Gpus
from sparseft.stages import train
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf
from sparseft.study.planning.sizes import task_lengths
from sparseft.training.settings import MEASURED_KEYS, Narrowed, Throughput, Training
from sparseft.training.trainers.backends import TORCH


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the measured speeds of a cell."""
    training = config.training_of(wildcards.task, training_name(wildcards.training))
    return {
        "cell": CELL_ID.format(**vars(wildcards)),
        **training.model_dump(exclude=MEASURED_KEYS),
        **config.throughput.model_dump(exclude=Narrowed.model_fields.keys()),
        "threads": config.resources.threads,
    }


# Raise it when the results change.
VERSION = 1
TRAINING = Training.model_fields.keys() - MEASURED_KEYS
THROUGHPUT = Throughput.model_fields.keys() - Narrowed.model_fields.keys()
_KEYS = {name: key for name, key in Training.model_fields.items() if name in TRAINING}
_KEYS |= {name: key for name, key in Throughput.model_fields.items() if name in THROUGHPUT}
# The keys of both sections that a measurement reads.
Settings = create_model("Settings", __base__=Section, **{name: (key.annotation, key) for name, key in _KEYS.items()})


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a measurement needs: the memory of the training, and a whole GPU."""
    measured = config.throughput
    examples = measured.repeats * sum(measured.batch_sizes) * (measured.warmup_steps + measured.steps)
    return replace(
        train.needs(config, job, sizes_of),
        tokens=3 * (measured.sequence_length or task_lengths(config, job.task).mean) * examples,
        reads=measured.repeats * len(measured.batch_sizes),
        processes=1,
        gpus=config.resources.jobs_per_gpu,
        kept={},
        temporary=0,
    )


def run(
    *,
    cell: str,
    model_path: Folder,
    mask_path: Path,
    data_dir: Path,
    output: Path,
    settings: Flags[Settings] = Settings(),
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
) -> None:
    """Check the inputs, measure the training, and write the record.

    Args:
        cell: name of a run without its seed
        model_path: folder of the prepared model
        mask_path: the mask that the model is pruned with
        data_dir: folder with train.jsonl
        output: the measurement
        threads: CPU threads; another number changes the last bits
    """
    from sparseft.evaluation.throughput import MeasuredTraining, measure
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.hardware import choose_device, device_name, start, versions
    from sparseft.pruning.masks.mask_file import read_checked_mask

    # An exit ends the measuring process too, and a signal without a handler would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    claim_record(output, "throughput", [model_path, mask_path, data_dir])
    named = Cell.parse(cell)
    if named.mode not in TASK_MODES:
        raise InputError(f"{named.id} is not trained on its task", f"choose one of {', '.join(TASK_MODES)}")
    training = Training(**settings.model_dump(include=TRAINING), save_every=0)
    if training.shard_model:
        what = "training.shard_model: throughput is measured with the whole model on one device"
        raise InputError(what, "set it to false, or leave the stage throughput out")
    checkpoint = Checkpoint(model_path)
    mask, mask_sha256 = read_checked_mask(mask_path, checkpoint, named)
    training.check(named.mode, {layer.rpartition(".")[2] for layer in mask.shape})
    rows, train_sha256 = read_prepared(data_dir / "train.jsonl", find_task(data_dir, named.task))
    # The number of threads is part of the device's name.
    start(threads, gpus)
    device = choose_device()
    throughput = Throughput(**settings.model_dump(include=THROUGHPUT))
    measured = MeasuredTraining(
        checkpoint, mask_path, named.mode, training, throughput, named.task, data_dir, rows, threads
    )
    record = ThroughputRecord(
        cell=named.id,
        backend=TORCH.name,
        device=device_name(device),
        threads=threads,
        processes=1,
        **measured.memory_record(device),
        **settings.model_dump(exclude={"memory_mb"}),
        batches=measure(measured),
        versions=versions(),
        inputs={"model": checkpoint.digest, "mask": mask_sha256, "train": train_sha256},
    )
    write(output, record)
