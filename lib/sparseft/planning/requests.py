"""Compute what a job needs and what it requests from a scheduler: memory and time, by its kind, model, task and method.

The memory is that of the weights and of a batch, with a margin. The time is that of a SLOW machine. If either was too little, the
scheduler ends the job and tries it again with more; a training continues from its last state. torch is not imported. The hours
that a user sees rest on the speeds that probe.py measures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sparseft.architectures.architecture import HEAD, KEY_VALUE_HEADS, attention_heads
from sparseft.errors import InputError
from sparseft.methods import Method, get_method
from sparseft.modes import get_mode
from sparseft.planning.sizes import (
    SCORE,
    Subject,
    TaskLengths,
    calibration_lengths,
    described,
    mask_lengths,
    perplexity_tokens,
    task_lengths,
)
from sparseft.study.config import Config
from sparseft.study.grid import training_name
from sparseft.study.mask_settings import kept_inputs, segment_length
from sparseft.study.sources import OWN_LENGTH, TOGETHER

# The kinds of jobs that run the model. The others are `prepare`, `weights` (masks that look at no example), `blocks`, which
# reads and writes a model some rows at a time, and `files`, which does it matrix by matrix.
EVALUATIONS = ("evaluation", "selection", "engines")
# Those that read decoder layers from their files if the memory has no room for them.
PLACED = (*EVALUATIONS, "sampling")
RUN_THE_MODEL = ("training", "throughput", "reconstruction", "mask", *PLACED)
# The rules that request memory, by the kind of their jobs. The rules and the estimate read it here only.
_RULES = {
    "prepare": ("prepare_model",),
    "sampling": ("sample_text",),
    "mask": ("compute_masks", "compute_one_mask", "prune"),
    "training": ("train_adapter", "run_on_appliance", "compile_program"),
    "reconstruction": ("reconstruct_adapter",),
    "blocks": ("merge_adapter", "merge_to_keep", "validate_sparsity"),
    "evaluation": ("evaluate_run", "evaluate_adapter"),
    "selection": ("evaluate_selection",),
    "engines": ("check_engines",),
    "throughput": ("measure_throughput", "measure_batch"),
    "files": ("import_pruned", "export_run", "export_checkpoint"),
}
KIND_OF = {rule: kind for kind, rules in _RULES.items() for rule in rules}
# Bytes of python, torch and its libraries on a CPU; measured.
PROGRAM = 400_000_000
# Bytes of a job that computes masks without examples, and of one that reads and writes a model in blocks.
# Both for any model; measured.
MASK_JOB = 400_000_000
BLOCKS = 250_000_000
# Bytes per number of an adapter: the number, its gradient and AdamW's two moments, all in fp32.
ADAM = 16
# Bytes per square of the inputs in an update of weights: those of the Hessian of each layer of a decoder layer, and of two
# more matrices for the widest one (pruning/sparsegpt.py), or of three if units are pruned (pruning/obs.py).
HESSIAN, FACTORS, UNIT_FACTORS = 4, 8, 12
# Bytes per logit in an evaluation by lm-eval, with the softmax in fp32 of this and the last batch. Measured on a CPU in fp32
# and bf16; counted on a GPU, which makes no copy in fp32 before the softmax.
LOGITS, LOGITS_ON_GPU = 16, 12
# Bytes of CUDA's context on a GPU, and of its libraries in the machine; typical, not measured.
CUDA, CUDA_LIBRARIES = 600_000_000, 3_000_000_000
# Tensors that transformers loads at a time.
LOADED = 4
# On a GPU: rows of logits that an evaluation has at once; bytes per word of the 512 rows that are in fp32
# (language_model/loss.py); entries of the blocks of a gradient and its mask (lora/carried_mask.py).
LOGIT_ROWS, FP32_LOGITS, BLOCK = 1 << 13, 8 * 512, 1 << 26
# How much more is in fp32 in a distillation; counted (tests/planning/test_counted_memory.py).
DISTILLED = 3
PADDED = 32  # tokens; the examples of gradients are padded to a multiple (pruning/calibration.py)
MATRIX = 16  # bytes per weight of the largest matrix, if a job works on a model matrix by matrix: fp32, a mask, copies
MARGIN = 1.3  # of a memory that is estimated, not measured
SNAKEMAKE = 400_000_000  # bytes of Snakemake's own processes in a cluster's job, of which there are two or three
# Generating a token reads all weights once per batch. This takes as long as a forward of so many tokens, on a CPU per thread.
READING_ON_GPU, READING_ON_CPU = 270, 5
UNKNOWN = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there


@dataclass(frozen=True)
class Machine:
    """Hold the speeds of a machine, in FLOP or bytes per second. That of a CPU thread depends on the bytes of a weight.

    `start` has the seconds for what does not grow with the model. `length` says which of its task's lengths an example has, and
    `source` where the speeds come from."""

    thread: Mapping[int, float]
    gpu: float
    disk: float
    download: float
    start: float
    length: str
    source: str = ""


# So slow, and with examples so long, that the requested time is enough. Others use the disk and the network too.
SLOW = Machine({4: 5e9, 2: 5e9}, gpu=40e12, disk=50e6, download=10e6, start=20 * 60, length="long")


@dataclass(frozen=True)
class JobKind:
    """Name what decides the memory and the time of a job. What does not matter is empty."""

    kind: str
    model: str
    task: str = ""
    method: str = ""
    training: str = ""
    text: str = ""

    @classmethod
    def of(cls, rule: str, cell: Any) -> "JobKind":
        """Return the kind of a rule's job with what `cell`, a run or the wildcards of a job, names and the kind depends on."""
        kind = KIND_OF[rule]
        if kind not in RUN_THE_MODEL:
            return cls(kind, cell.model)
        if kind == "sampling":
            return cls(kind, cell.model, text=cell.text)
        if kind != "mask":
            return cls(kind, cell.model, cell.task, training=training_name(cell.training))
        method = get_method(cell.method)
        if not method.uses_examples:
            # A smaller model is written tensor by tensor.
            return cls("files" if method.pattern.units else "weights", cell.model)
        return cls(kind, cell.model, cell.task if method.uses_task else "", cell.method)


class Requests:
    """Compute the memory and time requests of the jobs of one study. Equal jobs are computed once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        # What raises InputError, because a model is not known yet, is computed again the next time.
        self.subject = cache(lambda model: described(model, config.models[model], config.models))
        self._estimate = cache(lambda job: _estimated_request(config, job, self.subject(self._largest(job))))
        self._room = cache(lambda job: _room(config, job, self.subject(self._largest(job))))

    def of(self, job: JobKind, attempt: int) -> tuple[int, int]:
        """Return the memory to request, in MB of 10^6 bytes, and the minutes after which the scheduler may end the job.

        Both grow with each attempt."""
        try:
            megabytes, minutes = self._estimate(job)
        except InputError:
            megabytes, minutes = UNKNOWN
        if job.kind in RUN_THE_MODEL:
            resources = self.config.resources
            megabytes, minutes = resources.memory_mb or megabytes, resources.minutes or minutes
        return attempt * megabytes, attempt * minutes

    def _largest(self, job: JobKind) -> str:
        """Return the largest model that a job runs. Engines and teachers are also of the model from which its own was pruned."""
        runs_both = job.kind == "engines" or _is_distilled(self.config, job)
        return self.config.original(job.model) if runs_both else job.model

    def weights_mb(self, job: JobKind) -> int | None:
        """Return the memory that an evaluation may use for weights, on each GPU or in the machine, in MB; None without a limit.

        In a training, they are the weights of the teacher."""
        try:
            room = self._room(job)
        except InputError:
            return None
        return None if room == math.inf else int(room / 1e6)

    def gpus(self, job: JobKind) -> int:
        """Return the GPUs of an evaluation: one, or as many of `resources.gpus` as its weights need."""
        room = 1e6 * (self.weights_mb(job) or 0) if self.config.resources.gpus else 0
        subject = self.subject(job.model) if room else None
        # A decoder layer is never divided.
        needed = math.ceil(subject.bytes / max(1, room - subject.width * subject.layer_and_outside)) if subject else 1
        return min(needed, self.config.resources.gpus)


def _estimated_request(config: Config, job: JobKind, subject: Subject) -> tuple[int, int]:
    """Return the memory, in MB, and the minutes that a job is estimated to need, with a margin."""
    megabytes = math.ceil((SNAKEMAKE + MARGIN * job_bytes(config, job, subject)) / 1e6)
    return megabytes, math.ceil(job_seconds(config, job, subject, SLOW) / 60)


def job_bytes(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the bytes of the job's own processes in the machine's memory, without a margin."""
    if job.kind in RUN_THE_MODEL:
        processes = config.resources.processes if job.kind == "training" else 1
        on_device, in_machine = process_memory(config, job, subject)
        return processes * (sum(in_machine.values()) + (0 if config.resources.gpus else sum(on_device.values())))
    if job.kind == "weights":
        return MASK_JOB
    if job.kind == "prepare" and subject.source.startswith("pypi:"):
        # The whole model is in float32 while it is dequantised.
        return PROGRAM + 4 * subject.weights
    # `files`: an import compares a matrix with the model's.
    return BLOCKS + (MATRIX * max(map(math.prod, subject.prunable.values())) if job.kind == "files" else 0)


def process_memory(config: Config, job: JobKind, subject: Subject) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of a process that runs the model, by part: on the device that computes, and always in the machine."""
    host = config.training_backend.host_memory
    if host and job.kind in ("training", "throughput"):
        return {}, host(subject.weights)
    weights, device = _held_weights(config, job, subject)
    machine = {"program": PROGRAM}
    if config.resources.gpus:
        largest = subject.width * max(map(math.prod, subject.shapes.values()))
        machine |= {"CUDA's libraries": CUDA_LIBRARIES, "tensors on their way to the GPU": LOADED * largest}
        device["CUDA"] = CUDA
        if _is_offloaded(config, job):
            machine["weights"] = sum(_pinned(subject.width * math.prod(shape)) for shape in subject.shapes.values())
    if job.kind in ("mask", "reconstruction"):
        machine |= _kept_in_machine(config, job, subject)
    device |= {"a batch": _batch_bytes(config, job, subject)}
    if _is_distilled(config, job):
        whole, outside = subject.bytes, subject.width * subject.layer_and_outside
        room = _teacher_room(config, job, weights + sum(device.values()))
        device["teacher"] = min(whole, max(outside, int(min(whole, room))))
        # The processes read the same files.
        machine["layers in their files"] = (whole - device["teacher"]) // config.resources.processes
    if job.kind in PLACED:
        whole, weights = weights, int(min(weights, _weights_room(config, device, machine)))
        if config.resources.gpus:
            # They would be read from the disk for every batch if the machine could not keep them.
            machine["layers in their files"] = max(0, whole - config.resources.gpus * weights)
    return {"weights": weights} | device, machine


def _room(config: Config, job: JobKind, subject: Subject) -> float:
    """Return the bytes that a job has for weights that may stay in their files; infinity without a limit."""
    device, machine = process_memory(config, job, subject)
    if job.kind != "training":
        return _weights_room(config, device, machine)
    others = sum(device.values()) - device.get("teacher", 0)
    return _teacher_room(config, job, others) if _is_distilled(config, job) else math.inf


def _is_distilled(config: Config, job: JobKind) -> bool:
    """Return whether a job is a training with a teacher."""
    return job.kind == "training" and config.training_of(job.task, job.training).distillation is not None


def _teacher_room(config: Config, job: JobKind, others: int) -> float:
    """Return the bytes that a teacher has on each device beside `others`; infinity without a limit.

    Without a limit, the decoder layers of the teacher of a divided model stay in their files, because it is as large."""
    resources = config.resources
    if resources.gpus and resources.gpu_memory_mb:
        return max(0, 1e6 * resources.gpu_memory_mb - MARGIN * others)
    return 0 if config.training_of(job.task, job.training).shard_model else math.inf


def _weights_room(config: Config, device: dict[str, int], machine: dict[str, int]) -> float:
    """Return the bytes that an evaluation has for weights on a GPU or in the machine, beside these parts; infinity without a
    limit.

    The decoder layers that do not fit stay in their files."""
    resources = config.resources
    limit = resources.gpu_memory_mb if resources.gpus else resources.memory_mb
    others = sum(device.values()) - device.get("weights", 0) + (0 if resources.gpus else sum(machine.values()))
    return max(0, 1e6 * limit - MARGIN * others) if limit else math.inf


def _kept_in_machine(config: Config, job: JobKind, subject: Subject) -> dict[str, int]:
    """Return what a job that computes one decoder layer at a time keeps in the machine's memory, by part."""
    layers, states = subject.config["num_hidden_layers"], subject.width * subject.config["hidden_size"]
    if job.kind == "reconstruction":
        section = config.reconstruction
        lengths = calibration_lengths(config, job.task, section.calibration, section.examples)
        return {
            "hidden states": 2 * states * lengths.rows[0] * lengths.mean,
            "adapter": 4 * subject.adapter_numbers(config, job.task, job.training),
        }
    lengths = mask_lengths(config, job.task, job.method)
    if not _uses_gradients(job.method):
        # In fp32: a matrix, its magnitudes and its scores.
        scores = 4 * 3 * max(map(math.prod, subject.prunable.values()))
        # The importance keeps what entered the decoder layer that is left out.
        copies = 2 if _leaves_out(job.method, layers) else 1
        return {"hidden states": copies * states * lengths.rows[0] * lengths.mean, "scores": scores}
    of_layer = states * lengths.rows[0] * math.ceil(lengths.mean / PADDED) * PADDED
    # With the gradients of a decoder layer's outputs.
    kept = 1 + kept_inputs(layers, segment_length(layers, of_layer, subject.bytes))
    is_global = config.masks.scope_of(job.method, config.grid.percents(job.method)) == "global"
    return {"hidden states": kept * of_layer, "scores": 4 * subject.prunable_weights // (1 if is_global else layers)}


def _held_weights(config: Config, job: JobKind, subject: Subject) -> tuple[int, dict[str, int]]:
    """Return the bytes of the model's weights that a process holds, and those of what belongs to them, by part."""
    layers = subject.config["num_hidden_layers"]
    layer_and_outside = subject.width * subject.layer_and_outside
    largest = max(map(math.prod, subject.prunable.values()))
    if job.kind == "mask":
        held = {"Hessians": _hessians(get_method(job.method), config, subject)}
        if not _uses_gradients(job.method):
            # The output head computes nothing, unless the scores are losses.
            head = 0 if _leaves_out(job.method, layers) else math.prod(subject.shapes.get(HEAD, (0,)))
            return layer_and_outside - subject.width * head, held
        # A CPU without 16-bit instructions computes it in fp32.
        in_fp32 = 4 if subject.width == 2 and not config.resources.gpus else 0
        held["a gradient"] = (subject.width + in_fp32) * largest
        # On a CPU, they are the scores.
        held["sums"] = 4 * subject.prunable_weights // layers if config.resources.gpus else 0
        return layer_and_outside, held
    if job.kind == "sampling":
        return subject.bytes, {}
    numbers = subject.adapter_numbers(config, job.task, job.training)
    masks = any(get_mode(mode).masks_every_step for mode in config.trained_modes)
    masked = subject.width * subject.prunable_weights if masks else 0
    if job.kind in EVALUATIONS:
        # Before the merge, W' takes the place of W.
        return subject.bytes, {"adapter": 4 * numbers}
    adapter = {"adapter, gradient, AdamW": ADAM * numbers // (layers if job.kind == "reconstruction" else 1)}
    if masks:
        adapter["W' and a gradient of a layer"] = subject.width * (largest + 2 * min(largest, BLOCK))
    settings = config.training_of(job.task, job.training)
    if job.kind == "reconstruction":
        return layer_and_outside, adapter
    if settings.cache_weights:
        adapter["W'"] = masked
    if not settings.shard_model:
        return subject.bytes, adapter
    if _is_offloaded(config, job):
        # A tensor is copied to the GPU, and then to its place there.
        largest_tensor = subject.width * max(map(math.prod, subject.shapes.values()))
        return 0, adapter | {"gathered weights": layer_and_outside + largest_tensor}
    processes = config.resources.processes
    # FSDP holds what it has gathered from other processes twice: as it was received, and as tensors.
    return subject.bytes // processes, adapter | {"gathered weights": min(2, processes) * layer_and_outside}


def _hessians(method: Method, config: Config, subject: Subject) -> int:
    """Return the bytes of the Hessians of a decoder layer, and of what is made of the widest one; 0 without an update."""
    if not method.algorithm:
        return 0
    widths, factors = {layer: cols for layer, (_, cols) in subject.prunable.items()}, FACTORS
    if method.pattern.removes == "channels":
        groups = subject.architecture.coupled_parts(subject.config, subject.prunable)
        last = [parts[-1] for parts in groups if config.masks.head_share or parts[0].unit != KEY_VALUE_HEADS]
        widths, factors = {part.layer: widths[part.layer] for part in last}, UNIT_FACTORS
    squares = sum(cols**2 for cols in widths.values()) // subject.config["num_hidden_layers"]
    return HESSIAN * squares + factors * max(widths.values()) ** 2


def _is_offloaded(config: Config, job: JobKind) -> bool:
    """Return whether a training keeps its weights in the machine's memory, and copies them to its only GPU."""
    is_on_one_gpu = job.kind == "training" and config.resources.gpus == 1
    return is_on_one_gpu and config.training_of(job.task, job.training).shard_model


def _pinned(size: int) -> int:
    """Return the bytes of pinned memory that torch takes for `size` bytes: the next power of two (CachingHostAllocator.h)."""
    return 1 << (size - 1).bit_length()


def _uses_gradients(method: str) -> bool:
    """Return whether the masks of a method look at gradients of the examples."""
    return any(statistic.of_gradients for statistic in get_method(method).statistics)


def _leaves_out(method: str, layers: int) -> bool:
    """Return whether the scores of a method are losses of models without some of the `layers`."""
    importance = get_method(method).importance
    return importance is not None and importance.passes is not None and importance.passes(layers) > 1


def _batch_bytes(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the bytes of the activations and the logits of what a process computes at a time."""
    layers, states = subject.config["num_hidden_layers"], subject.width * subject.config["hidden_size"]
    logits = subject.width * subject.config["vocab_size"]
    if job.kind == "mask":
        lengths = mask_lengths(config, job.task, job.method)
        if _uses_gradients(job.method):
            return lengths.long * subject.activation_bytes(lengths.long) + lengths.answer * logits
        rows = lengths.answer if _leaves_out(job.method, layers) else 0
        return lengths.long * subject.forward_bytes(lengths.long) + rows * logits
    if job.kind == "sampling":
        cached, scored = _cached_and_scored(config, subject)
        return TOGETHER * (config.texts[job.text].length * cached + scored)
    if job.kind in EVALUATIONS:
        of_tasks = [task_lengths(config, task) for task in config.evaluated_tasks(job.task)]
        window = OWN_LENGTH * _cached_and_scored(config, subject)[1] if config.divergence_windows else 0
        return max(window, *(_evaluated_bytes(config, subject, lengths) for lengths in of_tasks))
    if job.kind == "reconstruction":
        section = config.reconstruction
        lengths = calibration_lengths(config, job.task, section.calibration, section.examples)
        return section.batch_size * lengths.long * subject.activation_bytes(lengths.long)
    settings, lengths = config.training_of(job.task, job.training), task_lengths(config, job.task)
    of_layer = subject.activation_bytes(lengths.long)
    # With it, every layer keeps its input, and one layer at a time computes its activations again.
    per_token = layers * states + of_layer if settings.gradient_checkpointing else layers * of_layer
    rows = lengths.long if settings.train_on_inputs else lengths.answer
    batch = settings.micro_batch_size * (lengths.long * per_token + rows * logits)
    fp32 = FP32_LOGITS * subject.config["vocab_size"] if config.resources.gpus else 0
    if _is_distilled(config, job):
        # The logits of the teacher, and three times as much in fp32. Its activations are gone when those of the training come.
        batch += settings.micro_batch_size * rows * logits
        fp32 *= DISTILLED
    batch += fp32
    evaluates = job.kind == "training" and settings.eval_every
    return max(batch, _loss_bytes(config, subject, lengths)) if evaluates else batch


def _evaluated_bytes(config: Config, subject: Subject, lengths: TaskLengths) -> int:
    """Return the bytes of a batch of an evaluation: cached keys and values or logits, with the scores of an eager attention."""
    if not (lengths.choices or lengths.max_new_tokens):
        # Such a task is evaluated by its loss.
        return _loss_bytes(config, subject, lengths)
    cached, scored = _cached_and_scored(config, subject)
    tokens = lengths.long + lengths.few_shot * lengths.mean + lengths.max_new_tokens
    scores = SCORE * subject.architecture.scores(subject.config, tokens)
    return config.evaluation_batch_size * tokens * (scores + (cached if lengths.max_new_tokens else scored))


def _cached_and_scored(config: Config, subject: Subject) -> tuple[int, int]:
    """Return the bytes of a token's keys and values in all decoder layers, and those of its logits with their softmax."""
    heads = attention_heads(subject.config)
    cached = 2 * subject.width * heads.key_value * heads.size * subject.config["num_hidden_layers"]
    return cached, (LOGITS_ON_GPU if config.resources.gpus else LOGITS) * subject.config["vocab_size"]


def _loss_bytes(config: Config, subject: Subject, lengths: TaskLengths) -> int:
    """Return the bytes of a batch of an evaluation loss: one decoder layer's activations, or the logits of the answers."""
    rows, fp32 = config.evaluation_batch_size * lengths.answer, 0
    if config.resources.gpus:
        rows, fp32 = min(rows, LOGIT_ROWS), FP32_LOGITS
    tokens = config.evaluation_batch_size * lengths.long
    states = tokens * subject.width * subject.config["hidden_size"]
    logits = subject.config["vocab_size"] * (subject.width * rows + fp32)
    return max(tokens * subject.forward_bytes(lengths.long), states + logits)


def job_seconds(config: Config, job: JobKind, subject: Subject, machine: Machine) -> float:
    """Return the seconds of a job on a machine."""
    queue_minutes = config.training_backend.queue_minutes
    if queue_minutes and job.kind in ("training", "throughput"):
        return machine.start + 60 * queue_minutes
    measured = config.throughput
    loads = measured.repeats * len(measured.batch_sizes) if job.kind == "throughput" else 1
    seconds = machine.start + loads * 4 * subject.bytes / machine.disk
    if job.kind == "prepare":
        seconds += subject.bytes / machine.download
    if job.kind in RUN_THE_MODEL:
        processes = config.resources.processes if job.kind == "training" else 1
        speed = machine.gpu if config.resources.gpus else machine.thread[subject.width] * config.resources.threads
        tokens = _passed_tokens(config, job, subject, machine.length)
        seconds += 2 * subject.weights * tokens / (speed * processes)
    return seconds


def _passed_tokens(config: Config, job: JobKind, subject: Subject, length: str) -> float:
    """Return how many tokens pass the model forward, at 2 FLOP per weight. A backward is two.

    Every example has the `length` of its task."""
    if job.kind == "mask":
        lengths = mask_lengths(config, job.task, job.method)
        layers = subject.config["num_hidden_layers"]
        passes = config.masks.passes_of(job.method, config.grid.percents(job.method), layers)
        # A backward by segments computes every decoder layer two or three times.
        share = 5 if _uses_gradients(job.method) else 3
        tokens: float = share * getattr(lengths, length) * lengths.rows[0] * passes
        # The Hessians take at most as long as the pass, and the updates as long as three tokens per input of the widest layer.
        return 2 * tokens + 9 * subject.widest if get_method(job.method).algorithm else tokens
    if job.kind == "sampling":
        text = config.texts[job.text]
        return text.length * (text.examples + math.ceil(text.examples / TOGETHER) * _tokens_of_a_reading(config))
    lengths = _of_length(config, job.task, length)
    if job.kind == "training":
        settings = config.training_of(job.task, job.training)
        losses = settings.steps // settings.eval_every if settings.eval_every else 0
        # The teacher has no backward.
        passes = 4 if settings.distillation else 3
        return (passes * settings.steps * settings.batch_size + losses * lengths.rows[1]) * lengths.long
    if job.kind == "reconstruction":
        section = config.reconstruction
        long = getattr(calibration_lengths(config, job.task, section.calibration, section.examples), length)
        # Every layer computes all examples three times without a gradient: dense, pruned, and reconstructed.
        return 3 * long * (section.steps * section.batch_size + section.examples)
    if job.kind == "throughput":
        measured = config.throughput
        examples = measured.repeats * sum(measured.batch_sizes) * (measured.warmup_steps + measured.steps)
        return 3 * (measured.sequence_length or lengths.long) * examples
    if job.kind == "selection":
        # The number of a text is that of its documents.
        number = None if config.task_data(job.task).kind == "text" else config.task_data(job.task).selection_examples
        return (number or lengths.rows[1]) * _evaluated_tokens(config, lengths)
    probes = [_of_length(config, task, length) for task in config.evaluated_tasks(job.task)]
    tokens = sum(lengths.rows[1] * _evaluated_tokens(config, lengths) for lengths in probes)
    return tokens + perplexity_tokens(config) + OWN_LENGTH * config.divergence_windows


def _of_length(config: Config, task: str, length: str) -> TaskLengths:
    """Return the lengths of a task whose examples all have one of them."""
    lengths = task_lengths(config, task)
    return replace(lengths, long=getattr(lengths, length))


def _evaluated_tokens(config: Config, lengths: TaskLengths) -> float:
    """Return how many tokens pass the model in the evaluation of one example, with those that are as long as reading it."""
    read = max(1, lengths.choices) * lengths.long + lengths.few_shot * lengths.mean
    return read + lengths.max_new_tokens * _tokens_of_a_reading(config) / config.evaluation_batch_size


def _tokens_of_a_reading(config: Config) -> int:
    """Return how many tokens pass the model while all weights are read once."""
    return READING_ON_GPU if config.resources.gpus else READING_ON_CPU * config.resources.threads
