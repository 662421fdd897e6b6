"""Estimate how long a job takes, from the tokens that pass its model and the speeds of a machine."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from sparseft.methods import get_method
from sparseft.planning.job_kind import RUN_THE_MODEL, JobKind
from sparseft.planning.sizes import Subject, calibration_lengths, perplexity_tokens, task_lengths
from sparseft.study.config import Config
from sparseft.tasks.task import Lengths

# Generating a token reads all weights once per batch. This takes as long as a forward of so many tokens, on a CPU per
# thread.
READING_ON_GPU, READING_ON_CPU = 270, 5
GPU = 120e12  # FLOP per second: 40 % of the peak of an A100, not measured
# Seconds per weight and CPU thread of AdamW on weights in the machine's memory; measured on an Intel Xeon, in fp32.
UPDATE = 2.2e-9
START, DOWNLOAD = 5, 30e6  # seconds of what does not grow with the model, and bytes per second


class Speeds(NamedTuple):
    """Hold the FLOP per second of a CPU thread by the bytes of a weight, and the bytes per second of a disk."""

    thread: Mapping[int, float]
    disk: float


# An AMD EPYC (Zen 4), from whole jobs (benchmarks/results).
TYPICAL = Speeds({4: 80e9, 2: 200e9}, disk=1e9)


def job_seconds(config: Config, job: JobKind, subject: Subject, speeds: Speeds = TYPICAL) -> float:
    """Return the seconds of a job. Only the queue of an appliance is known of a training there."""
    if appliance := job.appliance(config):
        return 60 * appliance.queue_minutes
    loads = config.throughput.repeats * len(config.throughput.batch_sizes) if job.kind == "throughput" else 1
    download = subject.bytes / DOWNLOAD if job.kind == "prepare" else 0
    seconds = START + download + loads * 4 * subject.bytes / speeds.disk
    if job.kind in RUN_THE_MODEL:
        resources = config.resources
        processes = resources.processes if job.kind == "training" else 1
        speed = GPU if resources.gpus else speeds.thread[subject.width] * resources.threads
        if job.is_full and resources.gpus == 1:
            settings = config.training_of(job.task, job.training)
            updated = settings.shard_model * settings.steps * subject.trained_numbers(settings, is_full=True)
            seconds += updated * UPDATE / resources.threads
        seconds += 2 * subject.weights * _passed_tokens(config, job, subject) / (speed * processes)
    return seconds


def _passed_tokens(config: Config, job: JobKind, subject: Subject) -> float:
    """Return how many tokens pass the model forward, at 2 FLOP per weight. A backward is two."""
    # As many tokens pass while all weights are read once.
    reading = READING_ON_GPU if config.resources.gpus else READING_ON_CPU * config.resources.threads
    match job.kind:
        case "mask":
            method, lengths = get_method(job.method), calibration_lengths(config, job)
            own = method.importance and method.importance.passes
            sequential = config.masks.is_sequential(method) * len([*filter(None, config.grid.percents(job.method))])
            # Three forwards with statistics of inputs, five with a backward by segments, six with updates of weights.
            of_gradients = any(statistic.of_gradients for statistic in method.statistics)
            share = 6 if method.algorithm else 5 if of_gradients else 3
            return share * lengths.mean * lengths.rows[0] * (own(subject.layers) if own else 1 + sequential)
        case "sampling":
            text = config.texts[job.text]
            return text.length * (text.examples + math.ceil(text.examples / text.together) * reading)
        case "reconstruction":
            section, lengths = config.reconstruction, calibration_lengths(config, job)
            # Every layer computes all examples three times without a gradient: dense, pruned, and reconstructed.
            return 3 * lengths.mean * (section.steps * section.batch_size + section.examples)
        case "training":
            settings, lengths = config.training_of(job.task, job.training), task_lengths(config, job.task)
            losses = settings.steps // settings.eval_every if settings.eval_every else 0
            # The teacher has no backward.
            passes = 4 if settings.distillation else 3
            return (passes * settings.steps * settings.batch_size + losses * lengths.rows[1]) * lengths.mean
        case "engines":
            # The dense model and the run.
            return 2 * config.export.repeats * (1 + len(config.export.engines)) * _served_tokens(config, reading)
        case "serving":
            # Each candidate is measured about as often as the search measures shapes.
            ship = config.ship
            models = 2 + (len(ship.candidates) + len(ship.siblings) if ship else 0)
            formats = max(1, len(ship.formats)) if ship else 1
            return models * config.export.repeats * formats * _served_tokens(config, reading)
        case "throughput":
            measured = config.throughput
            examples = measured.repeats * sum(measured.batch_sizes) * (measured.warmup_steps + measured.steps)
            return 3 * (measured.sequence_length or task_lengths(config, job.task).mean) * examples

    def of_task(lengths: Lengths) -> float:
        """Return the tokens of an evaluation on all examples, with those that are as long as reading the weights."""
        read = (max(1, lengths.choices) + lengths.few_shot) * lengths.mean
        return lengths.rows[1] * (read + lengths.max_new_tokens * reading / config.evaluation_batch_size)

    tokens = sum(of_task(task_lengths(config, task)) for task in config.evaluated_tasks(job.task))
    return tokens + perplexity_tokens(config) + config.divergence_length * config.divergence_windows


def _served_tokens(config: Config, reading: float) -> float:
    """Return how many tokens pass an engine that measures one model once."""
    export = config.export
    # With a warm-up, and each group of prompts twice (export/engine_process.py).
    groups = {at_once: math.ceil(export.prompts / at_once) for at_once in (1, *export.load)}
    read = sum(at_once * (2 * number + 1) * export.prompt_tokens for at_once, number in groups.items())
    return read + sum((number + 1) * export.new_tokens * reading for number in groups.values())
