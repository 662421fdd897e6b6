"""The training speed of the backend cerebras at one batch size, which has a compiled program of its own.

The program is compiled before the first step. The clock runs from the end of the warm-up to the end of the last step. Nothing
is saved or evaluated in between.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

from sparseft.backends.cerebras.package import appliance_needed, open_backend
from sparseft.backends.cerebras.trainer import Trainer
from sparseft.backends.cerebras.training import device_record
from sparseft.errors import InputError
from sparseft.language_model.hardware import peak_memory
from sparseft.study.backends.cerebras import CerebrasJob
from sparseft.training.job import TrainingJob


def without_evaluation(job: TrainingJob) -> TrainingJob:
    """Return the job with only its training examples."""
    return replace(job, rows={"train": job.rows["train"]})


def measure(job: TrainingJob, cerebras: CerebrasJob, folder: Path, *, warmup: int, fill: bool) -> dict:
    """Train for settings.steps steps, and return what the steps after the first `warmup` took: one repeat of a batch size.

    Time is in seconds and memory in bytes. `tokens` counts those of the examples, `padded_tokens` also the padding. With
    `fill`, examples are cut or repeated to the sequence length. Raises InputError as `training.train` does."""
    trainer = Trainer(without_evaluation(job), cerebras, open_backend(cerebras, folder), folder, fill=fill)
    begin = time.perf_counter()
    cpu_begin = time.process_time()
    with appliance_needed():
        trainer.run(0, job.settings.steps, saves=False)
    cpu_share = (time.process_time() - cpu_begin) / (time.perf_counter() - begin) / torch.get_num_threads()
    timed = len(trainer.progress.seconds)
    # Without the time of a step, the others would seem faster.
    if timed != job.settings.steps:
        raise InputError(f"{timed} of {job.settings.steps} steps were timed", "report this line")
    on_csx = trainer.backend.backend_type.is_csx
    samples = job.settings.batch_size * (job.settings.steps - warmup)
    repeat = {
        "seconds": sum(trainer.progress.seconds[warmup:]),
        "samples": samples,
        "tokens": sum(trainer.progress.tokens[warmup:]),
        "padded_tokens": samples * cerebras.sequence_length,
        "peak_memory_bytes": peak_memory(torch.device("cpu")),
        "cpu_share": None if on_csx else cpu_share,
        "dtype": trainer.dtype,
    }
    # The memory that a training needs on the CS-3 is unknown.
    memory_kind = "resident, on the user node" if on_csx else "resident"
    return {**device_record(trainer), "peak_memory_kind": memory_kind, "repeat": repeat}
