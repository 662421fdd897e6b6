"""Estimate the memory of a job by its kind, model, task and method, from the model's config.json, without torch.

The bytes of weights and of an adapter are exact. The rest says how it is computed, and is not measured.
"""

import math
from dataclasses import dataclass

from sparseft.architectures.architecture import Shapes
from sparseft.architectures.config_sizes import attention_heads
from sparseft.importances import Evidence
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.planning.model_sizes import Subject
from sparseft.storage.adapter_files import factor_names
from sparseft.study import grid
from sparseft.study.config import Config
from sparseft.tasks import get_task

PROGRAM = 600_000_000  # bytes of python, torch and its libraries on a CPU; measured
# Bytes of a job for masks that look at no example, for any model; measured by benchmarks/masks.py.
MASK_JOB = 210_000_000
ADAM = 16  # bytes per number of an adapter: itself, its gradient, two moments, all fp32
LOGITS = 4  # copies of the logits in an evaluation by lm-eval: with their softmax, and the last batch's; measured


@dataclass(frozen=True)
class Need:
    """Bytes of a job by part: in the memory of the device that computes, and in the machine's memory in any case."""

    model: dict[str, int]
    machine: dict[str, int]


def adapter_shapes(config: Config, subject: Subject, task: str) -> Shapes:
    """Return the shapes of the matrices of an adapter by their names in its file."""
    settings = config.training_of(task)
    shapes: Shapes = {}
    for layer, (rows, cols) in subject.prunable.items():
        if layer.rpartition(".")[2] in (settings.lora_targets or grid.PROJECTIONS):
            name_A, name_B = factor_names(layer)
            shapes[name_A] = (settings.lora_r, cols)
            shapes[name_B] = (rows, settings.lora_r)
    return shapes


def activation_bytes(subject: Subject) -> int:
    """Return the bytes that one decoder layer keeps per token for its backward under LoRA. It is an estimate."""
    return subject.architecture.activation_bytes(subject.config, subject.width)


def mask_memory(config: Config, subject: Subject, task: str, method: str) -> Need:
    """Return what the masks of a method need."""
    importance = get_method(method).importance
    if not get_method(method).uses_examples:
        return Need({}, {"blocks of a matrix": MASK_JOB})
    # float16 is calibrated in float32.
    width = max(subject.width, 4 if subject.dtype == "F16" else 0)
    weights = width * subject.weights
    if importance.evidence is Evidence.GRADIENTS:
        return _gradient_memory(config, subject, task, weights)
    if not config.masks.sequential:
        return Need({"weights": weights}, _loading(config, subject))
    # A token has a hidden state, and the cosines and sines of its place.
    numbers_per_token = subject.config["hidden_size"] + 2 * attention_heads(subject.config).size
    states = width * config.masks.calibration_examples * get_task(task).lengths.mean * numbers_per_token
    matrix = 12 * max(map(math.prod, subject.prunable.values()))
    machine = _loading(config, subject) | {"a matrix, its magnitudes and scores, fp32": matrix}
    return Need({"weights": weights, "hidden states of the examples": states}, machine)


def _gradient_memory(config: Config, subject: Subject, task: str, weights: int) -> Need:
    """Return what the gradients of the examples need; `weights` in bytes."""
    activations = get_task(task).lengths.long * subject.config["num_hidden_layers"] * activation_bytes(subject)
    scores = {"scores, fp32": 4 * subject.prunable_weights}
    if config.resources.gpus:
        # The weights have left the machine's memory before the scores are made.
        scores = {"scores, fp32, or before them the weights": max(weights, *scores.values())}
    return Need({"weights": weights, "activations": activations}, scores | {"program": PROGRAM})


def training_memory(config: Config, subject: Subject, task: str) -> Need:
    """Return what a training on a task needs, per process."""
    host = config.training_backend.host_memory
    if host:
        return Need({}, {host.purpose: host.bytes_per_weight * subject.weights, "program": host.program_bytes})
    settings = config.training_of(task)
    texts = get_task(task).lengths
    layers = subject.config["num_hidden_layers"]
    tokens = settings.micro_batch_size * texts.long
    kept = layers * activation_bytes(subject)
    if settings.gradient_checkpointing:
        kept = layers * subject.width * subject.config["hidden_size"] + activation_bytes(subject)
    effective = subject.prunable_weights if settings.cache_weights else max(map(math.prod, subject.prunable.values()))
    logits = settings.micro_batch_size * texts.answer * subject.config["vocab_size"]
    model = {
        "weights": subject.width * subject.weights // (config.resources.processes if settings.shard_model else 1),
        "W'": subject.width * effective if _masks_every_step(config) else 0,
        "adapter, gradient, AdamW": ADAM * count(adapter_shapes(config, subject, task)),
        f"activations of {tokens:,} tokens": tokens * kept,
        "logits of the answers": logits * subject.width,
    }
    return Need(model, _loading(config, subject))


def evaluation_memory(config: Config, subject: Subject, name: str) -> Need:
    """Return what an evaluation on a task needs."""
    texts = get_task(name).lengths
    task = get_task(name)
    batch = config.evaluation_batch_size
    model = {"weights": subject.width * subject.weights}
    if _masks_every_step(config):  # Before the merge every W' is kept, except those of structured masks.
        model["W' and adapter before the merge"] = subject.width * subject.prunable_weights
        model["W' and adapter before the merge"] += 4 * count(adapter_shapes(config, subject, name))
    tokens = batch * (texts.long + task.few_shot * texts.mean + task.max_new_tokens)
    if texts.choices:
        model[f"logits of {tokens:,} tokens"] = LOGITS * subject.width * tokens * subject.config["vocab_size"]
    else:
        _, kv_heads, head_dim = attention_heads(subject.config)
        cached = subject.config["num_hidden_layers"] * 2 * kv_heads * head_dim
        model[f"keys and values of {tokens:,} tokens"] = subject.width * tokens * cached
    return Need(model, _loading(config, subject))


def _masks_every_step(config: Config) -> bool:
    """Return whether a mode of the grid trains on W'."""
    return any(get_mode(mode).masks_every_step for mode in config.grid.modes)


def _loading(config: Config, subject: Subject) -> dict[str, int]:
    """Return what every job that runs the model needs in the machine's memory."""
    weights = subject.width * subject.weights if config.resources.gpus else 0
    return {"program": PROGRAM, "weights, until they are on the GPU": weights}


def count(shapes: Shapes) -> int:
    """Return the number of values in tensors of these shapes."""
    return sum(map(math.prod, shapes.values()))
