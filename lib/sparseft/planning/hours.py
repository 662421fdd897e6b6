"""Estimate how long a job takes, from the tokens that pass its model and the speeds of a machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sparseft.methods import get_method
from sparseft.planning.job_kind import RUN_THE_MODEL, JobKind
from sparseft.planning.sizes import (
    Subject,
    mask_lengths,
    perplexity_tokens,
    reconstruction_lengths,
    task_lengths,
)
from sparseft.study.config import Config
from sparseft.study.sources import OWN_LENGTH, TOGETHER
from sparseft.tasks.task import Lengths

# Generating a token reads all weights once per batch. This takes as long as a forward of so many tokens, on a CPU per
# thread.
READING_ON_GPU, READING_ON_CPU = 270, 5


@dataclass(frozen=True)
class Speeds:
    """Hold the speeds of a machine, in FLOP or bytes per second. That of a CPU thread depends on the bytes of a weight.

    `start` has the seconds for what does not grow with the model."""

    thread: Mapping[int, float]
    gpu: float
    disk: float
    download: float
    start: float


# So slow that the requested time is enough. Others use the disk and the network too.
SLOW = Speeds({4: 5e9, 2: 5e9}, gpu=40e12, disk=50e6, download=10e6, start=20 * 60)


def job_seconds(config: Config, job: JobKind, subject: Subject, speeds: Speeds) -> float:
    """Return the seconds of a job on a machine with these speeds."""
    queue_minutes = config.training_backend.queue_minutes
    if queue_minutes and job.kind in ("training", "throughput"):
        return speeds.start + 60 * queue_minutes
    measured, resources = config.throughput, config.resources
    loads = measured.repeats * len(measured.batch_sizes) if job.kind == "throughput" else 1
    seconds = speeds.start + loads * 4 * subject.bytes / speeds.disk
    if job.kind == "prepare":
        seconds += subject.bytes / speeds.download
    if job.kind in RUN_THE_MODEL:
        processes = resources.processes if job.kind == "training" else 1
        speed = speeds.gpu if resources.gpus else speeds.thread[subject.width] * resources.threads
        seconds += 2 * subject.weights * _passed_tokens(config, job, subject) / (speed * processes)
    return seconds


def _passed_tokens(config: Config, job: JobKind, subject: Subject) -> float:
    """Return how many tokens pass the model forward, at 2 FLOP per weight. A backward is two."""
    match job.kind:
        case "mask":
            method, lengths = get_method(job.method), mask_lengths(config, job.task, job.method)
            passes = config.masks.passes_of(job.method, config.grid.percents(job.method), subject.layers)
            # A backward by segments computes every decoder layer two or three times.
            share = 5 if any(statistic.of_gradients for statistic in method.statistics) else 3
            tokens = share * lengths.mean * lengths.rows[0] * passes
            # The Hessians take at most as long as the pass, and the updates as three tokens per input of the widest
            # layer.
            return 2 * tokens + 9 * subject.widest if method.algorithm else tokens
        case "sampling":
            text = config.texts[job.text]
            return text.length * (text.examples + math.ceil(text.examples / TOGETHER) * _tokens_of_a_reading(config))
        case "reconstruction":
            section, lengths = config.reconstruction, reconstruction_lengths(config, job.task)
            # Every layer computes all examples three times without a gradient: dense, pruned, and reconstructed.
            return 3 * lengths.mean * (section.steps * section.batch_size + section.examples)
    lengths = task_lengths(config, job.task)
    if job.kind == "training":
        settings = config.training_of(job.task, job.training)
        losses = settings.steps // settings.eval_every if settings.eval_every else 0
        # The teacher has no backward.
        passes = 4 if settings.distillation else 3
        return (passes * settings.steps * settings.batch_size + losses * lengths.rows[1]) * lengths.mean
    if job.kind == "throughput":
        measured = config.throughput
        examples = measured.repeats * sum(measured.batch_sizes) * (measured.warmup_steps + measured.steps)
        return 3 * (measured.sequence_length or lengths.mean) * examples
    if job.kind == "selection":
        # The number of a text is that of its documents.
        number = None if config.task_data(job.task).kind == "text" else config.task_data(job.task).selection_examples
        return (number or lengths.rows[1]) * _evaluated_tokens(config, lengths)
    of_tasks = [task_lengths(config, task) for task in config.evaluated_tasks(job.task)]
    tokens = sum(lengths.rows[1] * _evaluated_tokens(config, lengths) for lengths in of_tasks)
    return tokens + perplexity_tokens(config) + OWN_LENGTH * config.divergence_windows


def _evaluated_tokens(config: Config, lengths: Lengths) -> float:
    """Return how many tokens pass the model in the evaluation of one example, with those that are as long as reading
    it."""
    read = max(1, lengths.choices) * lengths.mean + lengths.few_shot * lengths.mean
    return read + lengths.max_new_tokens * _tokens_of_a_reading(config) / config.evaluation_batch_size


def _tokens_of_a_reading(config: Config) -> int:
    """Return how many tokens pass the model while all weights are read once."""
    return READING_ON_GPU if config.resources.gpus else READING_ON_CPU * config.resources.threads
