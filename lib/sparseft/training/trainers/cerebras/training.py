"""The backend cerebras: train an adapter, lower its program, or measure its speed.

The parts are in package.py (cerebras-pytorch itself, and saved states) and trainer.py (the training and its batches).
"""

import re
import time
from pathlib import Path

import torch

from sparseft.models.language_model.hardware import peak_memory, versions
from sparseft.storage.hashes import sha256_of_text
from sparseft.training.job import TrainingJob
from sparseft.training.trainers.backends.cerebras import CEREBRAS, CerebrasJob
from sparseft.training.trainers.cerebras.package import RELEASE, open_backend
from sparseft.training.trainers.cerebras.trainer import Trainer

# The source lines in a lowered program, a cirh.mlir file.
_PLACES = re.compile(r"^#loc.*\n| loc\(.*?\)(?=[\s,)]|$)", re.MULTILINE)


def train(job: TrainingJob, cerebras: CerebrasJob, folder: Path) -> dict:
    """Train, write the job's output and return the measured part of train.json.

    If `folder` has a complete state_*.mdl of this training, it continues from there."""
    trainer = Trainer(job, cerebras, open_backend(cerebras, folder), folder)
    trainer.run()
    eval_loss = trainer.eval_loss()
    trainer.write()
    return trainer.progress.record(job.settings.batch_size, peak_memory(torch.device("cpu"))) | {
        "eval_loss": eval_loss,
        **device_record(trainer),
        "dtype": trainer.dtype,
    }


def lower(job: TrainingJob, cerebras: CerebrasJob, folder: Path, **how: bool) -> None:
    """Lower the steps of a training and of its evaluation, and execute none of them.

    how: compile_only, with which the appliance compiles them, or validate_only, for which no appliance is needed"""
    trainer = Trainer(job, cerebras, open_backend(cerebras, folder, **how), folder)
    trainer.run()
    trainer.eval_loss()


def measure(job: TrainingJob, cerebras: CerebrasJob, folder: Path, *, warmup: int, fill: bool) -> dict:
    """Train for settings.steps steps, and return what the steps after the first `warmup` took: one repeat of a batch
    size.

    A batch size has a program of its own, which is compiled before the first step. The clock runs from the end of the
    warm-up to the end of the last step. Nothing is saved or evaluated in between. Time is in seconds and memory in
    bytes. `tokens` counts those of the examples, `padded_tokens` also the padding. With `fill`, examples are cut or
    repeated to the sequence length."""
    trainer = Trainer(job, cerebras, open_backend(cerebras, folder), folder, fill=fill)
    begin = time.perf_counter()
    cpu_begin = time.process_time()
    trainer.run(saves=False)
    cpu_share = (time.process_time() - cpu_begin) / (time.perf_counter() - begin) / torch.get_num_threads()
    samples = job.settings.batch_size * (job.settings.steps - warmup)
    repeat = {
        "seconds": sum(trainer.progress.seconds[warmup:]),
        "samples": samples,
        "tokens": sum(trainer.progress.tokens[warmup:]),
        "padded_tokens": samples * cerebras.sequence_length,
        "peak_memory_bytes": peak_memory(torch.device("cpu")),
        "cpu_share": None if cerebras.on_csx else cpu_share,
        "dtype": trainer.dtype,
    }
    # The memory that a training needs on the CS-3 is unknown.
    memory_kind = "resident, on the user node" if cerebras.on_csx else "resident"
    return {**device_record(trainer), "peak_memory_kind": memory_kind, "repeat": repeat}


def device_record(trainer: Trainer) -> dict:
    """Return the part of a record that says where and with which program its numbers were made."""
    digest = None
    if trainer.cerebras.on_csx and trainer.graph:
        digest = sha256_of_text(_PLACES.sub("", trainer.graph.read_text()))
    return {
        "backend": CEREBRAS.name,
        **trainer.cerebras.device_record(trainer.settings.batch_size),
        "compile_hash": digest,
        "versions": versions() | {"cerebras-pytorch": RELEASE},
    }
