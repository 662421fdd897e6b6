"""Say what a job needs, and compute what the needs of several stages have in common.

Each stage says its needs in its file (stages/NAME.py). requests.py turns them into megabytes, minutes, GPUs and
threads. The memory is a rough upper bound from the weights and one batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from sparseft.axes.grid import training_name
from sparseft.axes.methods import TASK
from sparseft.axes.tasks.task import Lengths
from sparseft.study.config import Config
from sparseft.study.planning.sizes import ModelSizes, task_lengths
from sparseft.training.settings import Training
from sparseft.training.trainers.backends.backend import Appliance

# Bytes per weight of the largest matrix, if a job works on a model matrix by matrix: fp32, a mask, copies.
MATRIX = 16
# Bytes per trained number of an adapter: the number, its gradient and AdamW's two moments, all in fp32.
ADAM = 16
# Bytes per weight and rank of the sums of a gradient's parts on a GPU, and the most ranks that have such sums
# (training/lora/triton_weights.py): fp32 numbers for every 256 rows and for every 128 columns.
PARTS, MOST_RANKS = 4 / 256 + 4 / 128, 64
# Bytes per logit in an evaluation by lm-eval, with the softmax in fp32 of this and the last batch; measured on a CPU.
LOGITS = 16
# Rows of logits that an evaluation has at once on a GPU, and a text on a CPU; and bytes per word of the rows that are
# in fp32 (models/language_model/loss.py).
LOGIT_ROWS, FP32_LOGITS = 1 << 13, 8 * 512
# Generating a token reads all weights once per batch. This takes as long as a forward of so many tokens, on a CPU per
# thread.
READING_ON_GPU, READING_ON_CPU = 270, 5

# Returns the sizes of a model of the study by its name.
SizesOf = Callable[[str], ModelSizes]


@dataclass(frozen=True)
class Job:
    """Name a job by its stage, its wildcards, and the rows that it evaluates. What it lacks is empty.

    Jobs that differ in the seed alone have the same needs."""

    stage: str
    model: str = ""
    task: str = ""
    method: str = ""
    sparsity: str | int | None = None
    mode: str = ""
    training: str = ""
    text: str = ""
    split: str = ""

    @classmethod
    def of(cls, stage: str, values: Mapping[str, Any]) -> Self:
        """Return the job of a stage with these wildcards, or with the values of a run."""
        known = {own.name: values[own.name] for own in fields(cls) if own.name in values}
        return cls(stage, **known | {"training": training_name(values.get("training", ""))})


@dataclass(frozen=True)
class Needs:
    """Say what a job needs. By default, it reads no model.

    model       the largest model that it reads
    device      bytes of a process where the model computes: on its GPU, or in the machine without one
    host        further bytes of a process in the machine
    offloadable bytes of weights whose decoder layers are read from their files if the GPUs have no room for them
    tokens      tokens that pass the model forward, at 2 FLOP per weight; a backward is two. 0 if it is not run
    reads       how often the model is read from the disk or written to it, compared with a job that does so once
    fetched     bytes that come from the network
    updates     numbers that AdamW updates on the threads of the machine
    processes   processes that share the tokens
    gpus        places on GPUs, if it is not one per process that runs the model
    threads     CPU threads, if they are not those of the configuration, or one if the model is not run
    kept        bytes of the files that it leaves, by what they are
    temporary   further bytes on the disk while it runs
    appliance   what trains, if this machine does not"""

    model: ModelSizes | None = None
    device: int = 0
    host: int = 0
    offloadable: int = 0
    tokens: float = 0
    reads: int = 1
    fetched: int = 0
    updates: int = 0
    processes: int = 1
    gpus: int = 0
    threads: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)
    temporary: int = 0
    appliance: Appliance | None = None


def matrix_by_matrix(model: ModelSizes, **others: Any) -> Needs:
    """Return the needs of a job that reads or writes a model one matrix at a time."""
    return Needs(model, host=MATRIX * model.largest_prunable, **others)


def of_one_model(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return the needs of a stage that reads or writes its model one matrix at a time, and needs nothing else."""
    return matrix_by_matrix(sizes_of(job.model))


def adapter_bytes(config: Config, settings: Training, model: ModelSizes) -> int:
    """Return the bytes of an adapter in training, and of W' and a gradient of a layer."""
    trained = ADAM * model.trained_numbers(settings) + 3 * model.width * model.largest_prunable
    ranks = min(settings.lora_r, MOST_RANKS) if config.resources.gpus else 0
    return trained + int(PARTS * ranks * model.largest_prunable)


def logit_bytes(model: ModelSizes, rows: int) -> int:
    """Return the bytes of the logits of a loss, with those that are in fp32."""
    return model.config["vocab_size"] * (model.width * rows + FP32_LOGITS)


def loss_batch_bytes(config: Config, model: ModelSizes, lengths: Lengths) -> int:
    """Return the bytes of a batch of an evaluation loss: one decoder layer's activations, and the logits of the
    answers."""
    size = config.evaluation_batch_size
    rows = min(size * lengths.answer, LOGIT_ROWS) if config.resources.gpus else size * lengths.answer
    return size * lengths.long * model.activation_bytes + logit_bytes(model, rows)


def lm_eval_batch_bytes(config: Config, model: ModelSizes, task: str) -> int:
    """Return the bytes of a batch of an evaluation: cached keys and values, or a decoder layer's activations and
    logits."""
    lengths = task_lengths(config, task)
    tokens = lengths.long + lengths.few_shot * lengths.mean + lengths.max_new_tokens
    if lengths.max_new_tokens:
        return config.evaluation_batch_size * tokens * model.cached
    if not lengths.choices:
        return loss_batch_bytes(config, model, lengths)
    scored = LOGITS * model.config["vocab_size"]
    return config.evaluation_batch_size * tokens * (model.activation_bytes + scored)


def calibration_lengths(config: Config, text: str | None, task: str, examples: int) -> Lengths:
    """Return the lengths of the examples of a calibration text, or of the task. `rows` starts with their number."""
    if text is None:
        return replace(task_lengths(config, task), rows=(examples, 0))
    # Windows of a part may be longer than those of its mixture.
    texts = config.masks.texts
    parts = (text, *texts[text].parts)
    length = max(task_lengths(config, task).long if part == TASK else texts[part].length for part in parts)
    return Lengths(rows=(examples, 0), mean=length, long=length, answer=length, choices=0)


def tokens_per_weight_read(config: Config) -> int:
    """Return how many tokens pass the model forward while all weights are read once."""
    return READING_ON_GPU if config.resources.gpus else READING_ON_CPU * config.resources.threads


def served_tokens(config: Config) -> float:
    """Return how many tokens pass an engine that measures one model once."""
    export = config.export
    # With a warm-up, and each group of prompts twice (serving/engine_process.py).
    groups = {at_once: math.ceil(export.prompts / at_once) for at_once in (1, *export.load)}
    read = sum(at_once * (2 * number + 1) * export.prompt_tokens for at_once, number in groups.items())
    return read + sum((number + 1) * export.new_tokens * tokens_per_weight_read(config) for number in groups.values())
