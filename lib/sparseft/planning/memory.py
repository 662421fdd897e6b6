"""Estimate the memory of a job from its kind, task, method and the config.json of its model. torch is not imported.

The bytes of the weights and of an adapter are exact. The rest is computed from the lengths of the examples (lengths.py), or was
measured once.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sparseft.architectures.architecture import Shapes
from sparseft.architectures.config_sizes import attention_heads
from sparseft.checkpoints.layers import decoder_layer_of
from sparseft.importances import Statistic
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.planning.lengths import (
    CalibrationLengths,
    TaskLengths,
    calibration_lengths,
    reconstruction_lengths,
    task_lengths,
)
from sparseft.planning.model_sizes import Subject
from sparseft.storage.adapter_files import factor_names
from sparseft.study import grid
from sparseft.study.config import Config, Training

# Bytes of python, torch and its libraries on a CPU; measured.
PROGRAM = 600_000_000
# Bytes of a job that computes masks without examples, for any model; measured by benchmarks/masks.py.
MASK_JOB = 210_000_000
# Bytes per weight of the largest matrix, if a job works on a model matrix by matrix: fp32, a mask, copies.
MATRIX = 16
# Bytes per number of an adapter: the number, its gradient and AdamW's two moments, all in fp32.
ADAM = 16
# Bytes in memory per byte of a text, if a part of its letters is not in ASCII.
DOCUMENTS = 2
# Copies of the logits in an evaluation by lm-eval; measured. They are the logits and their softmax, of this and the last batch.
LOGITS = 4


@dataclass(frozen=True)
class Need:
    """Hold the bytes that a job needs, by part.

    `model` is in the memory of the device that computes, a GPU or the machine. `machine` is always in the machine's memory."""

    model: dict[str, int]
    machine: dict[str, int]


def adapter_shapes(config: Config, subject: Subject, task: str, training: str = "") -> Shapes:
    """Return the shapes of the matrices of an adapter of a training, by their names in the adapter file."""
    settings = config.training_of(task, training)
    shapes: Shapes = {}
    for layer, (rows, cols) in subject.prunable.items():
        if layer.rpartition(".")[2] in (settings.lora_targets or grid.PROJECTIONS):
            name_A, name_B = factor_names(layer)
            shapes[name_A] = (settings.lora_r, cols)
            shapes[name_B] = (rows, settings.lora_r)
    return shapes


def activation_bytes(subject: Subject) -> int:
    """Return an estimate of the bytes that one decoder layer keeps per token for its backward under LoRA."""
    return subject.architecture.activation_bytes(subject.config, subject.width)


def mask_memory(config: Config, subject: Subject, task: str, method: str) -> Need:
    """Return what a job needs that computes the masks of a method. `task` may be empty if the method looks at no task."""
    importance = get_method(method).importance
    statistics = get_method(method).statistics
    if get_method(method).imported:
        matrix = MATRIX * max(map(math.prod, subject.shapes.values()))
        return Need({}, {"program": PROGRAM, "a matrix of both checkpoints": matrix})
    if not statistics:
        return Need({}, {"blocks of a matrix": MASK_JOB})
    # A float16 model is calibrated in float32.
    width = max(subject.width, 4 if subject.dtype == "F16" else 0)
    weights = width * subject.weights
    lengths = calibration_lengths(config, task, method)
    if importance.statistic and importance.statistic.of_gradients:
        return _gradient_memory(config, subject, lengths, weights, importance.statistic)
    machine = {"program": PROGRAM, "documents of the text": DOCUMENTS * lengths.text_bytes}
    outer, layer = _outer_and_layer(subject)
    # For each token the pass keeps a hidden state, and the cosines and sines of its position.
    numbers_per_token = subject.config["hidden_size"] + 2 * attention_heads(subject.config).size
    states = width * lengths.examples * lengths.mean * numbers_per_token
    first = [shape for layer, shape in subject.prunable.items() if decoder_layer_of(layer) == 0]
    model = {
        "weights of a decoder layer, and outside of them": width * (outer + layer),
        "hidden states of the examples": states,
        "statistic of a decoder layer's inputs": max(_total_bytes(statistic, first) for statistic in statistics),
    }
    if importance.updates_weights:
        return Need(model | _update_memory(subject), machine)
    if not config.masks.is_sequential(method):
        kept = sum(_total_bytes(statistic, subject.prunable.values()) for statistic in statistics)
        return Need(model, machine | {"statistics of all layers": kept})
    # Three numbers of 4 bytes per weight.
    matrix = 3 * 4 * _largest_layer(subject)
    return Need(model, machine | {"a matrix, its magnitudes and scores, fp32": matrix})


def _total_bytes(statistic: Statistic, shapes: Iterable[tuple[int, int]]) -> int:
    """Return the bytes of the totals of a statistic for layers of these shapes."""
    return sum(statistic.total_bytes(rows, cols) for rows, cols in shapes)


def _update_memory(subject: Subject) -> dict[str, int]:
    """Return what the update of the largest layer needs beside its Hessian, in bytes. All numbers are in fp32."""
    # The damped Hessian, its triangle and its inverse. They and the Hessian itself exist together once.
    factors = 3 * max(cols for _, cols in subject.prunable.values()) ** 2
    # The weights, the new ones and their scores, and three numbers of a product.
    matrices = 6 * _largest_layer(subject)
    return {"factors of a Hessian, and its weights, fp32": 4 * (factors + matrices)}


def _gradient_memory(
    config: Config, subject: Subject, lengths: CalibrationLengths, weights: int, statistic: Statistic
) -> Need:
    """Return what a statistic of the gradients of the examples needs. `weights` is the size of the model in bytes."""
    logits = lengths.answer * subject.config["vocab_size"] * subject.width
    activations = lengths.long * subject.config["num_hidden_layers"] * activation_bytes(subject)
    scores = {"scores": _total_bytes(statistic, subject.prunable.values())}
    if config.resources.gpus:
        # The weights move to the GPU before the scores exist, so the larger of the two counts.
        scores = {"scores, or before them the weights": max(weights, *scores.values())}
    model = {"weights": weights, "activations": activations, "logits of an example": logits}
    return Need(model, scores | {"program": PROGRAM, "documents of the text": DOCUMENTS * lengths.text_bytes})


def training_memory(config: Config, subject: Subject, task: str, training: str = "") -> Need:
    """Return what each process of a training on a task needs."""
    host = config.training_backend.host_memory
    if host:
        return Need({}, {host.purpose: host.bytes_per_weight * subject.weights, "program": host.program_bytes})
    settings = config.training_of(task, training)
    lengths = task_lengths(config, task)
    tokens = settings.micro_batch_size * lengths.long
    logits = settings.micro_batch_size * lengths.answer * subject.config["vocab_size"]
    effective_weights = subject.prunable_weights if settings.cache_weights else _largest_layer(subject)
    parts = config.resources.processes if settings.shard_model else 1
    model = {
        "weights" if parts == 1 else f"1/{parts} of the weights": subject.width * subject.weights // parts,
        "gathered weights": subject.width * _gathered_weights(subject) if parts > 1 else 0,
        "W'": subject.width * effective_weights if _masks_every_step(config) else 0,
        "adapter, gradient, AdamW": ADAM * count(adapter_shapes(config, subject, task, training)),
        f"activations of {tokens:,} tokens": tokens * _kept_bytes(subject, settings),
        "logits of the answers": logits * subject.width,
    }
    return Need(model, _loading_part(config, subject) if parts > 1 else _loading(config, subject))


def reconstruction_memory(config: Config, subject: Subject, task: str, training: str = "") -> Need:
    """Return what the reconstruction of the decoder layers needs. Only one of them has activations and an optimiser at a time."""
    lengths = reconstruction_lengths(config, task)
    tokens = config.reconstruction.batch_size * lengths.long
    numbers = count(adapter_shapes(config, subject, task, training))
    states = 2 * subject.width * lengths.examples * lengths.mean * subject.config["hidden_size"]
    logits = config.evaluation_batch_size * task_lengths(config, task).answer * subject.config["vocab_size"]
    model = {
        "weights": subject.width * subject.weights,
        "W'": subject.width * _largest_layer(subject),
        "adapter": 4 * numbers,
        "gradient and AdamW of a decoder layer": (ADAM - 4) * numbers // subject.config["num_hidden_layers"],
        "inputs and outputs of a decoder layer": states,
        f"activations of {tokens:,} tokens in a decoder layer": tokens * activation_bytes(subject),
        "logits of the answers": logits * subject.width,
    }
    text = {"documents of the text": DOCUMENTS * lengths.text_bytes}
    return Need(model, _loading(config, subject) | text)


def _gathered_weights(subject: Subject) -> int:
    """Return the largest number of weights that FSDP has gathered at a time in each process of a divided training.

    The weights outside the decoder layers stay gathered while a micro-batch is forward and backward. A decoder layer is
    gathered while it computes. While weights are gathered, they exist twice: as they were received, and as tensors."""
    outer, layer = _outer_and_layer(subject)
    return outer + layer + max(outer, layer)


def _outer_and_layer(subject: Subject) -> tuple[int, int]:
    """Return the number of weights outside the decoder layers, and of a decoder layer."""
    in_layers = sum(math.prod(shape) for name, shape in subject.shapes.items() if name.startswith("model.layers."))
    return subject.weights - in_layers, in_layers // subject.config["num_hidden_layers"]


def _kept_bytes(subject: Subject, settings: Training) -> int:
    """Return the bytes that all decoder layers together keep per token for the backward of a training."""
    layers = subject.config["num_hidden_layers"]
    if settings.gradient_checkpointing:
        # Every layer keeps its input, and one layer at a time computes its activations again.
        return layers * subject.width * subject.config["hidden_size"] + activation_bytes(subject)
    return layers * activation_bytes(subject)


def evaluation_memory(config: Config, subject: Subject, name: str, training: str = "") -> Need:
    """Return what an evaluation on the task `name` and on the probes needs."""
    model = {"weights": subject.width * subject.weights}
    if _masks_every_step(config):
        # Before the merge every W' is kept, except under structured masks.
        adapter = 4 * count(adapter_shapes(config, subject, name, training))
        model["W' and adapter before the merge"] = subject.width * subject.prunable_weights + adapter
    parts = [_batch_part(config, subject, task_lengths(config, task)) for task in config.evaluated_tasks(name)]
    label, size = max(parts, key=lambda part: part[1])
    return Need(model | {label: size}, _loading(config, subject))


def _batch_part(config: Config, subject: Subject, lengths: TaskLengths) -> tuple[str, int]:
    """Return the name and the bytes of what a batch of an evaluation needs in addition to the weights."""
    length = lengths.long + lengths.few_shot * lengths.mean + lengths.max_new_tokens
    tokens = config.evaluation_batch_size * length
    if not lengths.max_new_tokens:
        return f"logits of {tokens:,} tokens", LOGITS * subject.width * tokens * subject.config["vocab_size"]
    _, kv_heads, head_dim = attention_heads(subject.config)
    # A decoder layer with a window keeps only the last tokens.
    cached = sum(min(length, window or length) for window in subject.architecture.windows(subject.config))
    numbers = config.evaluation_batch_size * cached * 2 * kv_heads * head_dim
    return f"keys and values of {tokens:,} tokens", subject.width * numbers


def _masks_every_step(config: Config) -> bool:
    """Return whether a mode of the grid builds W' in every step."""
    return any(get_mode(mode).masks_every_step for mode in config.trained_modes)


def _largest_layer(subject: Subject) -> int:
    """Return the number of weights of the largest prunable layer."""
    return max(map(math.prod, subject.prunable.values()))


def _loading(config: Config, subject: Subject) -> dict[str, int]:
    """Return what every job that runs the model needs in the machine's memory, by part."""
    weights = subject.width * subject.weights if config.resources.gpus else 0
    return {"program": PROGRAM, "weights, until they are on the GPU": weights}


def _loading_part(config: Config, subject: Subject) -> dict[str, int]:
    """Return what each process of a divided training needs in the machine's memory, by part. It reads its rows of each tensor."""
    if not config.resources.gpus:
        return {"program": PROGRAM}
    rows = subject.width * max(map(math.prod, subject.shapes.values())) // config.resources.processes
    # A mask has one byte per weight while a layer is loaded.
    return {
        "program": PROGRAM,
        "rows of a tensor and a mask, until they are on the GPU": rows + _largest_layer(subject),
    }


def count(shapes: Shapes) -> int:
    """Return the number of values in tensors of these shapes."""
    return sum(map(math.prod, shapes.values()))
