"""Training speed against the batch size on the backend torch: real steps of the training loop, one forward pass per
batch.

Every repeat of every batch size runs in a process of its own. So its peak memory is its own, and running out of memory
ends only that process. The repeats alternate between the batch sizes, so that a machine that becomes slower is not
mistaken for a slow batch size. Each repeat has other batches, like another seed of the training.
"""

import json
import multiprocessing
import os
import re
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from sparseft.axes.tasks.task import Row
from sparseft.common.errors import InputError, end
from sparseft.common.limits import limited_memory
from sparseft.data.prepared import find_task
from sparseft.evaluation.throughput_record import MEASURED, OUT_OF_MEMORY, SKIPPED
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import encode_splits, of_length
from sparseft.models.language_model.hardware import choose_device, peak_memory, start
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.storage.locks import end_with_parent
from sparseft.training.loop import train_part
from sparseft.training.settings import Throughput, Training
from sparseft.training.trained_part import model_to_train

# How Python, torch, C++, the system, Rust, LLVM, the dynamic linker, oneDNN and CUDA report a lack of memory.
_MEMORY = re.compile(
    "MemoryError|DefaultCPUAllocator|bad_alloc|[Cc]annot allocate memory|memory allocation of|out of memory"
    "|Unable to allocate|failed to map segment from shared object|could not (create|execute) a primitive"
    "|can't start new thread|returned NULL without setting|CUBLAS_STATUS_ALLOC_FAILED"
)


@dataclass(frozen=True)
class MeasuredTraining:
    """Describe the training that is measured: one cell of the grid, on the `rows` of the task in the folder `data`."""

    checkpoint: Checkpoint
    mask: Path
    mode: str
    settings: Training
    throughput: Throughput
    task: str
    data: Path
    rows: list[Row]
    threads: int

    def memory_record(self, device: torch.device) -> dict[str, int | str]:
        """Return the memory limit in bytes for the record, and what its bytes and those of a peak count. It is that of
        the GPU, or what a measurement on a CPU may use."""
        if device.type == "cuda":
            limit = torch.cuda.get_device_properties(device).total_memory
            kinds = {"peak_memory_kind": "allocated by torch", "memory_limit_kind": "the GPU's"}
        else:
            limit = self.throughput.memory_mb * 10**6
            kinds = {"peak_memory_kind": "resident", "memory_limit_kind": "private (RLIMIT_DATA)"}
        return kinds | {"memory_limit_bytes": limit}


def measure(training: MeasuredTraining) -> list[dict]:
    """Return a row per batch size, with its status and its repeats.

    A repeat has seconds, samples, tokens without and with padding, the peak memory in bytes, and the CPU share: the
    part of its threads' time that the CPU gave it. If that is far below 1, other work used the cores. A batch size that
    once runs out of memory does not fit, and larger ones are not tried again.

    Raises InputError if the model takes no sequence of the length that is set, or if a process ends for another reason
    than memory."""
    length, limit = training.throughput.sequence_length, training.checkpoint.config["max_position_embeddings"]
    if length and length > limit:
        raise InputError(f"throughput.sequence_length {length}: the model takes {limit} tokens", f"set {limit} or less")
    sizes = sorted(training.throughput.batch_sizes)
    rows: dict[int, dict] = {
        size: {"batch_size": size, "status": MEASURED, "reason": None, "repeats": []} for size in sizes
    }
    for seed in range(training.throughput.repeats):
        for number, size in enumerate(sizes):
            repeat = _measurement(training, size, seed)
            result = repeat if isinstance(repeat, str) else f"{repeat['samples'] / repeat['seconds']:.2f} samples/s"
            print(f"batch size {size}, repeat {seed + 1}: {result}", file=sys.stderr)
            if isinstance(repeat, str):
                # Earlier measurements of this size, and of larger ones, fitted only by luck.
                for other in sizes[number:]:
                    rows[other] |= {"status": SKIPPED, "repeats": []}
                rows[size] |= {"status": OUT_OF_MEMORY, "reason": repeat}
                sizes = sizes[:number]
                break
            rows[size]["repeats"].append(repeat)
    return list(rows.values())


def _measurement(training: MeasuredTraining, batch_size: int, seed: int) -> dict | str:
    """Measure one repeat in a new process. Return it, or what the process printed when memory ran out.

    Raises InputError if the process ended for another reason."""
    with TemporaryDirectory() as scratch:
        printed, repeat = Path(scratch, "stderr"), Path(scratch, "repeat.json")
        printed.touch()
        arguments = (printed, repeat, training, batch_size, seed)
        process = multiprocessing.get_context("spawn").Process(target=_measure_in_child, args=arguments, daemon=True)
        process.start()
        process.join()
        output = printed.read_text(errors="replace")
        print(output, end="", file=sys.stderr)
        return json.loads(repeat.read_text()) if repeat.exists() else reason_of(batch_size, process.exitcode, output)


def reason_of(batch_size: int, code: int | None, output: str) -> str:
    """Return what a process that ended with `code` printed of a lack of memory. Raises InputError if it printed nothing
    of it."""
    *_, last = lines = output.strip().splitlines() or ["nothing"]
    memory_lines = [line for line in lines if _MEMORY.search(line)]
    if code and memory_lines:
        return memory_lines[-1].strip().removeprefix("error: ")
    if last.startswith("error: "):
        # `end` has printed what is wrong and what to do.
        raise InputError(f"batch size {batch_size}: {last.removeprefix('error: ')}", "")
    raise InputError(
        f"batch size {batch_size}: its process ended with code {code}, and printed last: {last.strip()}",
        "let nothing end it; if memory did, lower throughput.memory_mb or leave this batch size out",
    )


def _measure_in_child(printed: Path, repeat: Path, training: MeasuredTraining, batch_size: int, seed: int) -> None:
    """Write a repeat, measured within the memory limit, as JSON, and end the process. The file `printed` takes
    stderr."""
    end_with_parent()
    with printed.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())

    def write_repeat() -> None:
        start(training.threads)
        device = choose_device()
        limit = int(training.memory_record(device)["memory_limit_bytes"])
        with limited_memory(limit) if device.type == "cpu" else nullcontext():
            repeat.write_text(json.dumps(_timed_steps(training, batch_size, seed, device)))

    end(lambda: write_repeat)


def _timed_steps(training: MeasuredTraining, batch_size: int, seed: int, device: torch.device) -> dict:
    """Train with one batch size and return the repeat: what the steps after the warm-up took."""
    throughput = training.throughput
    settings = throughput.schedule(training.settings, batch_size)
    torch.manual_seed(seed)
    mask = read_mask(training.mask)
    part, tokenizer = model_to_train(training.checkpoint, mask, training.mode, settings, device)
    limit = part.loss.model.config.max_position_embeddings
    task = find_task(training.data, training.task)
    examples = encode_splits({"train": training.rows}, task, tokenizer, limit, settings.train_on_inputs)["train"]
    if throughput.sequence_length:
        examples = [of_length(example, throughput.sequence_length) for example in examples]
    accelerator = Accelerator(cpu=device.type == "cpu")
    begin = time.perf_counter()
    cpu_begin = time.process_time()
    progress = train_part(part, examples, settings, seed, accelerator)
    cpu_share = (time.process_time() - cpu_begin) / (time.perf_counter() - begin) / torch.get_num_threads()
    timed_batches = islice(settings.batches(examples, seed), throughput.warmup_steps, settings.steps)
    return {
        "seconds": sum(progress.seconds[throughput.warmup_steps :]),
        "samples": batch_size * throughput.steps,
        "tokens": sum(progress.tokens[throughput.warmup_steps :]),
        "padded_tokens": sum(batch_size * max(len(example.ids) for example in batch) for batch in timed_batches),
        "peak_memory_bytes": peak_memory(device),
        "cpu_share": cpu_share if device.type == "cpu" else None,
        "dtype": str(part.dtype).removeprefix("torch."),
    }
