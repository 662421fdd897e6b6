"""Training speed against the batch size: real steps of the training loop, a batch being one forward pass.

Every measurement is a process of its own, a batch size and repeat: its peak memory is its own, and running out of memory
ends it alone. The repeats go round the batch sizes, so that a machine that slows down meanwhile is not taken for a
batch size that does. Each repeat draws other batches, as another seed of the training would.
"""

import errno
import multiprocessing
import os
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from accelerate import Accelerator

from sparseft.backends.torch import adapted_model
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError, own_place, print_traceback
from sparseft.language_model.batches import encode, of_length, shuffled
from sparseft.language_model.hardware import (
    choose_device,
    keep_freed_memory,
    limit_threads,
    limited_memory,
    memory_kills,
    peak_memory,
    private_memory,
)
from sparseft.language_model.loss import AnswerLoss
from sparseft.masks.mask_file import read_mask
from sparseft.storage.processes import end_with_parent
from sparseft.study.config import Resources, Throughput, Training
from sparseft.study.grid import MEASURED, OUT_OF_MEMORY, SKIPPED
from sparseft.tasks import get_task
from sparseft.tasks.task import Row
from sparseft.training.loop import Loop


@dataclass(frozen=True)
class Job:
    """What is measured: the training of one cell on a task's `rows`."""

    checkpoint: Checkpoint
    mask: Path
    mode: str
    settings: Training
    asked: Throughput
    task: str
    rows: list[Row]
    resources: Resources

    def memory(self, device: torch.device) -> dict[str, int | str]:
        """For the record: the limit, and what its bytes and those of a repeat's peak count; a CPU's are not the same."""
        kinds = ("allocated by torch", "the GPU's") if device.type == "cuda" else ("resident", "private (RLIMIT_DATA)")
        return {
            "peak_memory_kind": kinds[0],
            "memory_limit_kind": kinds[1],
            "memory_limit_bytes": self.memory_limit(device),
        }

    def memory_limit(self, device: torch.device) -> int:
        """Bytes: what the GPU has, or what a measurement on a CPU is granted."""
        if device.type == "cuda":
            return torch.cuda.get_device_properties(device).total_memory
        return self.asked.memory_mb * 10**6


def measure(job: Job) -> list[dict]:
    """A row a batch size: its status, and for every repeat seconds, samples, tokens without and with padding, peak memory
    in bytes, and the share of its threads' time that a CPU gave it: far below 1, other work took the cores.

    A batch size that once ran out of memory counts as one that does not fit."""
    sizes = sorted(job.asked.batch_sizes)
    rows = {size: {"batch_size": size, "status": MEASURED, "reason": None, "repeats": []} for size in sizes}
    for repeat in range(job.asked.repeats):
        for size in sizes:
            found = _measurement(job, size, repeat)
            print(f"batch size {size}, repeat {repeat + 1}: {_brief(found)}", file=sys.stderr)
            if isinstance(found, str):
                _end_at(size, found, rows)
                sizes = [other for other in sizes if other < size]
                break
            rows[size]["repeats"].append(found)
    return list(rows.values())


def _end_at(size: int, reason: str, rows: dict[int, dict]) -> None:
    """Memory ended at a batch size; what larger ones measured before would be a measurement of luck."""
    for other in rows:
        if other >= size:
            rows[other] |= {"status": SKIPPED, "repeats": []}
    rows[size] |= {"status": OUT_OF_MEMORY, "reason": reason}


def _brief(found: dict | str) -> str:
    return found if isinstance(found, str) else f"{found['samples'] / found['seconds']:.2f} samples/s"


def _measurement(job: Job, batch_size: int, repeat: int) -> dict | str:
    """One repeat in a new process; where it ran out of memory, what the system said. Raises InputError for another end."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    kills = memory_kills()
    with NamedTemporaryFile() as told:
        process = context.Process(target=_child, args=(sender, told.name, job, batch_size, repeat), daemon=True)
        process.start()
        sender.close()  # the child's end alone stays open, so that its death is seen
        try:
            found = receiver.recv()
        except EOFError:
            found = None
        process.join()
        words = told.read().decode(errors="replace")
    print(words, end="", file=sys.stderr)
    if isinstance(found, InputError):
        raise found
    return found or reason_of(batch_size, process.exitcode, words, killed=memory_kills() > kills)


def reason_of(batch_size: int, code: int, words: str, *, killed: bool) -> str:
    """What a process that ended with `code` and these last `words` says of the memory that it lacked; `killed`: the system
    killed one for want of memory meanwhile. Raises InputError where memory is not the cause."""
    lines = words.strip().splitlines() or ["nothing"]
    if code == -signal.SIGKILL and killed:
        return "killed by the system, whose memory ended before the limit"
    if code == -signal.SIGABRT and (memory := [line for line in lines if _tells_of_memory(line)]):
        return f"aborted: {memory[-1].strip()}"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise InputError(f"batch size {batch_size}: its process {how}, and said: {lines[-1].strip()}",
                     "let nothing end it; if memory did, lower throughput.memory_mb or leave this batch size out")  # fmt: skip


def out_of_memory(error: Exception, device: torch.device, limit: int) -> bool:
    """Of the memory that is limited: the GPU's, or a CPU's `limit`, by what Python, torch, the system and oneDNN say."""
    text = str(error)
    if device.type == "cuda":
        told = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
        return isinstance(error, torch.OutOfMemoryError) or any(t in text for t in told)
    if isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM or _tells_of_memory(text):
        return True
    # These have other causes too. Where it is memory, half of it was taken: scratch space is no larger than the operands.
    unclear = ("could not create a primitive", "could not execute a primitive", "can't start new thread")
    return text in unclear and 2 * private_memory() > limit


def _child(sender: Connection, told: str, job: Job, batch_size: int, repeat: int) -> None:
    """Send what was measured, the reason for which memory ended, or an InputError; stderr goes to the file `told`."""
    end_with_parent()
    with open(told, "ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    limit_threads(job.resources.threads)
    keep_freed_memory()
    device = choose_device()
    try:
        with limited_memory(job.memory_limit(device)) if device.type == "cpu" else nullcontext():
            found = _timed_steps(job, batch_size, repeat, device)
    except InputError as error:
        found = error
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        if not out_of_memory(error, device, job.memory_limit(device)):
            print_traceback(error)
            found = InputError(f"batch size {batch_size}: {found} ({own_place(error)})",
                               "check the input, and if it is right report this line")  # fmt: skip
    sender.send(found)


def _timed_steps(job: Job, batch_size: int, seed: int, device: torch.device) -> dict:
    asked = job.asked
    settings = asked.schedule(job.settings, batch_size)
    torch.manual_seed(seed)
    model, tokenizer, layers = adapted_model(job.checkpoint, read_mask(job.mask), job.mode, settings, device)
    limit = model.config.max_position_embeddings
    examples = encode(job.rows, get_task(job.task), tokenizer, limit)
    if asked.sequence_length:
        if asked.sequence_length > limit:
            raise InputError(f"throughput.sequence_length: the model takes {limit} tokens", "lower it")
        examples = [of_length(example, asked.sequence_length) for example in examples]
    accelerator = Accelerator(cpu=device.type == "cpu")
    loop = Loop(AnswerLoss(model), layers, {"train": examples}, settings, seed, accelerator, batch_size)
    begin, cpu = time.perf_counter(), time.process_time()
    progress = loop.run()
    cpu_share = (time.process_time() - cpu) / (time.perf_counter() - begin) / torch.get_num_threads()
    batches = islice(shuffled(examples, settings, seed), asked.warmup_steps, settings.steps)
    return {
        "seconds": sum(progress.seconds[asked.warmup_steps :]),
        "samples": batch_size * asked.steps,
        "tokens": sum(progress.tokens[asked.warmup_steps :]),
        "padded_tokens": sum(batch_size * max(len(example.ids) for example in batch) for batch in batches),
        "peak_memory_bytes": peak_memory(device),
        "cpu_share": cpu_share if device.type == "cpu" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _tells_of_memory(text: str) -> bool:
    """Return whether a text holds the words of torch, C++, the system, Rust or LLVM for memory that ended."""
    words = (
        "DefaultCPUAllocator",
        "bad_alloc",
        "Cannot allocate memory",
        "memory allocation of",
        "out of memory",
        "Unable to allocate",  # LLVM, where a compiled kernel finds no memory for its code
    )
    return any(word in text for word in words)
