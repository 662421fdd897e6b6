"""The speed of a training on the backend `cerebras` at one batch size, which is a program of its own there.

The program is compiled before the first step, the clock runs from the end of the warm-up to the end of the last step, and
nothing is saved or evaluated in between.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

from sparseft.backends.cerebras.trainer import Trainer, appliance_needed, open_backend, ran_on
from sparseft.errors import InputError
from sparseft.language_model.hardware import peak_memory
from sparseft.study.config import Cerebras
from sparseft.training.job import TrainingJob


def without_evaluation(job: TrainingJob) -> TrainingJob:
    """The same with its training examples alone."""
    return replace(job, rows={"train": job.rows["train"]})


def measure(job: TrainingJob, cerebras: Cerebras, folder: Path, *, warmup: int, fill: bool) -> dict:
    """Train for settings.steps steps; what those after the first `warmup` took, as a repeat of a batch size.

    `fill`: examples are cut or repeated to the sequence length. Seconds are the clock's, memory bytes; the tokens are
    those of the examples, and with padding those of the program. Raises InputError as `cerebras.train` does."""
    trainer = Trainer(without_evaluation(job), cerebras, open_backend(cerebras, folder), folder, fill=fill)
    begin, cpu = time.perf_counter(), time.process_time()
    with appliance_needed():
        trainer.run(0, job.settings.steps, saves=False)
    cpu_share = (time.process_time() - cpu) / (time.perf_counter() - begin) / torch.get_num_threads()
    if len(trainer.progress.seconds) != job.settings.steps:  # a step without its time would make the others faster
        raise InputError(
            f"{len(trainer.progress.seconds)} of {job.settings.steps} steps were timed", "report this line"
        )
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
    peak = "resident, on the user node" if on_csx else "resident"  # of the wafer's memory nothing is known
    return {**ran_on(trainer), "peak_memory_kind": peak, "repeat": repeat}
