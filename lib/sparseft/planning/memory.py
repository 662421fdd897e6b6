"""Estimate the memory of a job from its kind, its task, its method and the config.json of its model. torch is not imported.

The weights and the numbers of an adapter are exact. The rest follows from the lengths of the examples, or was measured once.
"""

import math
from dataclasses import dataclass

from sparseft.architectures.config_sizes import attention_heads
from sparseft.checkpoints.layers import decoder_layer_of
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.planning.sizes import Subject, calibration_lengths, mask_lengths, task_lengths
from sparseft.study.config import Config
from sparseft.study.grid import training_name

# Bytes of python, torch and its libraries on a CPU; measured.
PROGRAM = 600_000_000
# Bytes of a job that computes masks without examples, for any model; measured by benchmarks/masks.py.
MASK_JOB = 600_000_000
# Bytes per number of an adapter: the number, its gradient and AdamW's two moments, all in fp32.
ADAM = 16
# Bytes in memory per byte of a text, if a part of its letters is not in ASCII.
DOCUMENTS = 2
# Copies of the logits in an evaluation by lm-eval; measured. They are the logits and their softmax, of this and the last batch.
LOGITS = 4


@dataclass(frozen=True)
class JobKind:
    """Name what decides the memory and the time of a job. What does not matter is empty."""

    kind: str
    model: str
    task: str = ""
    method: str = ""
    training: str = ""

    @classmethod
    def of(cls, kind: str, cell: object) -> "JobKind":
        """Return the kind of job with what `cell`, a run or the wildcards of a job, names and the kind depends on."""
        if kind not in NEEDS:
            return cls(kind, cell.model)
        if kind != "mask":
            return cls(kind, cell.model, cell.task, training=training_name(cell.training))
        method = get_method(cell.method)
        if not method.uses_examples:
            return cls("weights", cell.model)
        return cls(kind, cell.model, cell.task if method.uses_task else "", cell.method)


@dataclass(frozen=True)
class Need:
    """Hold the bytes that a job needs, by part.

    `model` is in the memory of the device that computes, a GPU or the machine. `machine` is always in the machine's memory."""

    model: dict[str, int]
    machine: dict[str, int]


def mask_memory(config: Config, job: JobKind, subject: Subject) -> Need:
    """Return what the masks of a method that looks at examples need."""
    method = get_method(job.method)
    lengths = mask_lengths(config, job.task, job.method)
    machine = {"program": PROGRAM, "documents of the text": DOCUMENTS * lengths.bytes}
    # A float16 model is calibrated in float32.
    width = 4 if config.models[subject.name].dtype == "float16" else subject.width

    def totals(shapes: list[tuple[int, int]]) -> list[int]:
        """Return the bytes of the totals of each statistic for layers of these shapes."""
        return [sum(statistic.total_bytes(*shape) for shape in shapes) for statistic in method.statistics]

    of_all_layers = totals([*subject.prunable.values()])
    statistic = method.importance.statistic
    if statistic and statistic.of_gradients:
        weights = width * subject.weights
        # On a GPU the weights move before the scores exist, so the larger of the two counts.
        machine["scores"] = max(*of_all_layers, weights * bool(config.resources.gpus))
        activations = lengths.long * subject.config["num_hidden_layers"] * subject.activation_bytes
        logits = lengths.answer * subject.config["vocab_size"] * subject.width
        return Need({"weights": weights, "activations": activations, "logits of an example": logits}, machine)
    # For each token the pass keeps a hidden state, and the cosines and sines of its position.
    numbers_per_token = subject.config["hidden_size"] + 2 * attention_heads(subject.config).size
    first = [shape for layer, shape in subject.prunable.items() if decoder_layer_of(layer) == 0]
    model = {
        "weights of a decoder layer, and outside of them": width * sum(subject.outer_and_layer),
        "hidden states of the examples": width * lengths.rows[0] * lengths.mean * numbers_per_token,
        "statistics of a decoder layer's inputs": max(totals(first)),
    }
    if method.updates_weights:
        # In fp32: the damped Hessian, its triangle and its inverse, and six matrices of the size of the largest layer.
        widest = max(cols for _, cols in subject.prunable.values())
        model["factors of a Hessian, and its weights"] = 4 * (3 * widest**2 + 6 * subject.largest_layer)
    elif config.masks.is_sequential(job.method):
        machine["a matrix, its magnitudes and scores, fp32"] = 3 * 4 * subject.largest_layer
    else:
        machine["statistics of all layers"] = sum(of_all_layers)
    return Need(model, machine)


def training_memory(config: Config, job: JobKind, subject: Subject) -> Need:
    """Return what each process of a training on a task needs."""
    host = config.training_backend.host_memory
    if host:
        return Need({}, {host.purpose: host.bytes_per_weight * subject.weights, "program": host.program_bytes})
    settings = config.training_of(job.task, job.training)
    lengths = task_lengths(config, job.task)
    layers = subject.config["num_hidden_layers"]
    per_token = layers * subject.activation_bytes
    if settings.gradient_checkpointing:
        # Every layer keeps its input, and one layer at a time computes its activations again.
        per_token = layers * subject.width * subject.config["hidden_size"] + subject.activation_bytes
    tokens = settings.micro_batch_size * lengths.long
    answers = settings.micro_batch_size * lengths.answer
    parts = config.resources.processes if settings.shard_model else 1
    outer, layer = subject.outer_and_layer
    # FSDP holds what it has gathered twice: as it was received, and as tensors. What is outside the layers stays gathered.
    gathered = outer + layer + max(outer, layer)
    model = {
        "weights" if parts == 1 else f"1/{parts} of the weights": subject.bytes // parts,
        "gathered weights": subject.width * gathered if parts > 1 else 0,
        "W'": subject.width
        * (subject.prunable_weights if settings.cache_weights else subject.largest_layer)
        * _masks(config),
        "adapter, gradient, AdamW": ADAM * subject.adapter_numbers(config, job.task, job.training),
        f"activations of {tokens:,} tokens": tokens * per_token,
        "logits of the answers": answers * subject.config["vocab_size"] * subject.width,
    }
    return Need(model, _loading(config, subject, parts))


def reconstruction_memory(config: Config, job: JobKind, subject: Subject) -> Need:
    """Return what the reconstruction of the decoder layers needs. Only one of them has activations and an optimiser at a time."""
    settings = config.reconstruction
    lengths = calibration_lengths(config, job.task, settings.calibration, settings.examples)
    layers = subject.config["num_hidden_layers"]
    numbers = subject.adapter_numbers(config, job.task, job.training)
    answers = config.evaluation_batch_size * task_lengths(config, job.task).answer
    tokens = lengths.rows[0] * lengths.mean
    model = {
        "weights": subject.bytes,
        "W'": subject.width * subject.largest_layer,
        "adapter, and gradient and AdamW of a decoder layer": 4 * numbers + (ADAM - 4) * numbers // layers,
        "inputs and outputs of a decoder layer": 2 * subject.config["hidden_size"] * subject.width * tokens,
        "activations in a decoder layer": settings.batch_size * lengths.long * subject.activation_bytes,
        "logits of the answers": answers * subject.config["vocab_size"] * subject.width,
    }
    return Need(model, _loading(config, subject) | {"documents of the text": DOCUMENTS * lengths.bytes})


def evaluation_memory(config: Config, job: JobKind, subject: Subject) -> Need:
    """Return what an evaluation on a task and on the probes needs."""
    heads = attention_heads(subject.config)
    # Of the keys and values of a token.
    cached = subject.width * 2 * heads.key_value * heads.size * subject.config["num_hidden_layers"]
    batches = []
    for name in config.evaluated_tasks(job.task):
        lengths = task_lengths(config, name)
        tokens = config.evaluation_batch_size * (
            lengths.long + lengths.few_shot * lengths.mean + lengths.max_new_tokens
        )
        logits = LOGITS * subject.width * subject.config["vocab_size"]
        batches.append(tokens * (cached if lengths.max_new_tokens else logits))
    # Before the merge every W' is kept, except under structured masks.
    adapted = subject.width * subject.prunable_weights + 4 * subject.adapter_numbers(config, job.task, job.training)
    model = {
        "weights": subject.bytes,
        "W' and adapter before the merge": adapted * _masks(config),
        "logits, or keys and values": max(batches),
    }
    return Need(model, _loading(config, subject))


def _masks(config: Config) -> bool:
    """Return whether a mode of the grid builds W' in every step."""
    return any(get_mode(mode).masks_every_step for mode in config.trained_modes)


def _loading(config: Config, subject: Subject, parts: int = 1) -> dict[str, int]:
    """Return what a process that runs the model needs in the machine's memory.

    Each process of a training that divides the model into `parts` reads its rows of a tensor, and a mask of a byte per weight."""
    if not config.resources.gpus:
        return {"program": PROGRAM}
    if parts == 1:
        return {"program": PROGRAM, "weights, until they are on the GPU": subject.bytes}
    rows = subject.width * max(map(math.prod, subject.shapes.values())) // parts
    return {"program": PROGRAM, "rows of a tensor and a mask, until they are on the GPU": rows + subject.largest_layer}


# The kinds of jobs that run the model. The others are `prepare`, `weights` (masks that look at no example) and `files`, which
# reads and writes a model matrix by matrix.
NEEDS = {
    "training": training_memory,
    "throughput": training_memory,
    "reconstruction": reconstruction_memory,
    "evaluation": evaluation_memory,
    "selection": evaluation_memory,
    "mask": mask_memory,
}
