"""The memory of a job by its kind, model and task, from the model's config.json alone; no torch imported.

The bytes of weights and of an adapter are exact; the rest says how it is computed, and is no measurement.
"""

import math
from dataclasses import dataclass

from sparseft.checkpoints.layers import attention_heads
from sparseft.checkpoints.shapes import Shapes
from sparseft.planning.lengths import TEXTS
from sparseft.planning.sizes import Subject
from sparseft.study import grid
from sparseft.study.config import Config
from sparseft.study.grid import TASK_AWARE, split_method
from sparseft.tasks import get_task

PROGRAM = 600_000_000  # bytes of python, torch and its libraries on a CPU; measured
MASK_JOB = 210_000_000  # of masks from weights alone, whatever the model: benchmarks/masks.py; measured
ADAM = 16  # bytes a number of an adapter: itself, its gradient, two moments, all fp32
LOGITS = 4  # lm-eval's in an evaluation: with their softmax, and the last batch's; measured


@dataclass(frozen=True)
class Need:
    """Bytes of a job by part: what lies where the model computes, on the GPU if there is one, and what lies in the machine's
    memory either way."""

    model: dict[str, int]
    machine: dict[str, int]


def adapter_shapes(config: Config, subject: Subject, task: str) -> Shapes:
    """The matrices of a run's adapter as its file names them."""
    settings = config.training_of(task)
    shapes: Shapes = {}
    for layer, (rows, cols) in subject.prunable.items():
        if layer.rpartition(".")[2] in (settings.lora_targets or grid.PROJECTIONS):
            shapes[f"base_model.model.{layer}.lora_A.weight"] = (settings.lora_r, cols)
            shapes[f"base_model.model.{layer}.lora_B.weight"] = (rows, settings.lora_r)
    return shapes


def activation_bytes(subject: Subject) -> int:
    """Bytes a token that one decoder layer keeps for its backward under LoRA, roughly: the inputs of its projections, q, k,
    v and the attention's output, what the product of gate and up needs, and both norms' inputs in fp32."""
    hidden, (heads, kv_heads, head_dim) = subject.config["hidden_size"], attention_heads(subject.config)
    experts = subject.config.get("num_experts_per_tok", 0)
    mlp = 4 * subject.config["intermediate_size"] + (2 * hidden if experts else 0)
    attention = (3 * heads + 2 * kv_heads) * head_dim
    return subject.width * (2 * hidden + attention + (experts or 1) * mlp) + 2 * 4 * hidden


def mask_memory(config: Config, subject: Subject, task: str) -> Need:
    aware = {split_method(method)[1] for method in config.grid.methods} & set(TASK_AWARE)
    if not aware:
        return Need({}, {"blocks of a matrix": MASK_JOB})
    width = max(subject.width, 4 if subject.dtype == "F16" else 0)  # float16 is calibrated in fp32
    weights, texts = width * subject.weights, TEXTS[task]
    if aware - {"wanda"}:
        activations = texts.long * subject.config["num_hidden_layers"] * activation_bytes(subject)
        scores = {"scores, fp32": 4 * subject.prunable_weights}
        if config.resources.gpus:  # not both at a time
            scores = {"scores, fp32, or before them the weights": max(weights, *scores.values())}
        return Need({"weights": weights, "activations": activations}, scores | {"program": PROGRAM})
    if not config.masks.sequential:
        return Need({"weights": weights}, _loading(config, subject))
    a_token = subject.config["hidden_size"] + 2 * attention_heads(subject.config)[2]  # and its place: cosines, sines
    states = width * config.masks.calibration_examples * texts.mean * a_token
    matrix = 12 * max(map(math.prod, subject.prunable.values()))
    machine = _loading(config, subject) | {"a matrix, its magnitudes and scores, fp32": matrix}
    return Need({"weights": weights, "hidden states of the examples": states}, machine)


def training_memory(config: Config, subject: Subject, task: str) -> Need:
    host = config.training_backend.host_memory
    if host:
        return Need({}, {host.purpose: host.bytes_per_weight * subject.weights, "program": host.program_bytes})
    settings, texts, layers = config.training_of(task), TEXTS[task], subject.config["num_hidden_layers"]
    tokens = settings.micro_batch_size * texts.long
    kept = layers * activation_bytes(subject)
    if settings.gradient_checkpointing:
        kept = layers * subject.width * subject.config["hidden_size"] + activation_bytes(subject)
    effective = subject.prunable_weights if settings.cache_weights else max(map(math.prod, subject.prunable.values()))
    logits = settings.micro_batch_size * texts.answer * subject.config["vocab_size"]
    model = {
        "weights": subject.width * subject.weights // (config.resources.processes if settings.shard_model else 1),
        "W'": subject.width * effective if "sparse_to_sparse" in config.grid.modes else 0,
        "adapter, gradient, AdamW": ADAM * count(adapter_shapes(config, subject, task)),
        f"activations of {tokens:,} tokens": tokens * kept,
        "logits of the answers": logits * subject.width,
    }
    return Need(model, _loading(config, subject))


def evaluation_memory(config: Config, subject: Subject, name: str) -> Need:
    texts, task, batch = TEXTS[name], get_task(name), config.evaluation_batch_size
    model = {"weights": subject.width * subject.weights}
    if "sparse_to_sparse" in config.grid.modes:  # before the merge every W' is kept; not those of structured masks
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


def _loading(config: Config, subject: Subject) -> dict[str, int]:
    """In the machine's memory of every job that runs the model."""
    weights = subject.width * subject.weights if config.resources.gpus else 0
    return {"program": PROGRAM, "weights, until they are on the GPU": weights}


def count(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))
