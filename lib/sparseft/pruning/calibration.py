"""Compute the evidence of examples: the gradients of the training loss, or the norms of every layer's inputs.

The examples are a task's, or windows of a text (calibration_text.py).

    GRADIENTS    mean_i |dL_i/dW|   L_i: the mean answer loss of example i, nats per answer token (language_model/loss.py)
    INPUT_NORMS  ||X_j||            X: the layer's inputs (all tokens of all examples, cols)
    HESSIAN      X^T X              added in fp32, example by example

Why the mean of magnitudes, and not the magnitude of the mean gradient? At a trained model, the gradients of the examples
nearly cancel, and their mean is mostly noise. Magnitudes cannot cancel. The sources:

    Molchanov et al. 2017, arXiv 1611.06440    E[g w] tends to 0, and E|g w| does not
    Molchanov et al. 2019, arXiv 1906.10771    take the mean of (g w)^2; the mean of g^2 is the empirical Fisher information
    LLM-Pruner, arXiv 2305.11627               the first-order term of a language model does not vanish on calibration data
                                               that it was not trained on

benchmarks/results/importance.md has our results.

A float16 model is calibrated in float32, because its gradients would underflow.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError
from sparseft.importances import Evidence, Importance
from sparseft.language_model.batches import Example, collate, encode
from sparseft.language_model.experts import memory_path, unfuse_experts
from sparseft.language_model.hardware import choose_device, use_repeatable_kernels
from sparseft.language_model.layer_inputs import Stream
from sparseft.language_model.layered_model import LayeredModel
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import load_model, model_config
from sparseft.methods import Method
from sparseft.pruning.calibration_text import text_examples
from sparseft.study.config import CalibrationText, Masks
from sparseft.tasks.documents import read_documents, recorded_source
from sparseft.tasks.prepared import find_task, read_prepared
from sparseft.tasks.task import Row, Task

# The layer's name on disk -> its module.
Linears = dict[str, nn.Linear]
# Examples are padded to a multiple of this length, because oneDNN keeps 10 MB per distinct length (bf16, a 135M model).
MULTIPLE = 32


@dataclass(frozen=True)
class ExampleCalibration:
    """Hold how a method gets its evidence from examples. `meta` is added to the metadata of the masks."""

    importance: Importance
    # Returns the examples as the token ids of a checkpoint's model.
    examples_of: Callable[[Checkpoint], list[Example]]
    meta: dict
    # Folder of a checkpoint -> its input norms, because an allocation and the scores may both need them.
    _norms: dict[Path, dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def evidence(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Return the importance's `Evidence` by layer, fp32: (rows, cols) for GRADIENTS, (cols,) for INPUT_NORMS."""
        if self.importance.evidence is Evidence.INPUT_NORMS:
            return self.input_norms(checkpoint)
        return mean_gradient_magnitudes(checkpoint, self.examples_of(checkpoint))

    def input_norms(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Return the norms of the inputs in the dense model by layer, fp32 (cols,). They are computed once."""
        if checkpoint.folder not in self._norms:
            self._norms[checkpoint.folder] = input_norms(checkpoint, self.examples_of(checkpoint))
        return self._norms[checkpoint.folder]

    def prune_in_sequence(self, checkpoint: Checkpoint, prune: Callable[[str, np.ndarray], np.ndarray]) -> None:
        """Prune the model layer by layer, as `sequential_prune` describes."""
        sequential_prune(checkpoint, self.examples_of(checkpoint), prune)

    def update_in_sequence(self, checkpoint: Checkpoint, update: Callable[[str, Tensor, Tensor], Tensor]) -> None:
        """Prune the model layer by layer and update its weights, as `sequential_update` describes."""
        sequential_update(checkpoint, self.examples_of(checkpoint), update)


def calibrate(method: Method, task_name: str, train: Path, settings: Masks) -> ExampleCalibration:
    """Return the calibration of a method on the rows in `train`, a .jsonl file of the task.

    Raises InputError if the file holds no rows of the task, or if its manifest records another file."""
    task = find_task(train.parent, task_name)
    task.check_trainable()
    rows, train_sha256 = read_prepared(train, task)
    meta = {"task": task.name, "train_sha256": train_sha256, "accumulated": method.accumulated}
    number = settings.calibration_examples
    examples_of = partial(calibration_examples, task=task, rows=rows, number=number, seed=settings.calibration_seed)
    return ExampleCalibration(method.importance, examples_of, meta)


def calibrate_on_text(method: Method, path: Path, text: CalibrationText) -> ExampleCalibration:
    """Return the calibration of a method on the text in `path`, a .jsonl or .txt file. `text` says how it is read.

    Raises InputError if the file cannot be read, or if the file beside it describes another text."""
    documents, digest = read_documents(path)
    meta = {
        "calibration": method.calibration,
        "text_sha256": digest,
        "text_source": recorded_source(path, digest),
        "accumulated": method.accumulated,
    }
    examples_of = partial(text_examples, documents=documents, text=text, place=path)
    return ExampleCalibration(method.importance, examples_of, meta)


def calibration_examples(
    checkpoint: Checkpoint,
    task: Task,
    rows: list[Row],
    number: int,
    seed: int,
    key: str = "masks.calibration_examples",
) -> list[Example]:
    """Return `number` of the task's training examples, chosen by `seed`, as the token ids that training reads.

    `key` is the key of the configuration that sets the number. Raises InputError if there are fewer examples, or if one is
    longer than the model's context."""
    if not rows or number < 1:
        raise InputError(f"{task.name}: no calibration examples", f"give training rows, and set {key} to 1 or more")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    to_tokens = partial(
        encode, task=task, tokenizer=tokenizer, max_length=model_config(checkpoint.folder).max_position_embeddings
    )
    # Documents become other examples than their rows, so they are encoded before examples are chosen.
    candidates = to_tokens(rows) if task.sequence_length else rows
    if number > len(candidates):
        raise InputError(
            f"{key} {number}: {task.name} has only {len(candidates)} training"
            f" {'sequences' if task.sequence_length else 'rows'}",
            f"lower {key}, or give more rows",
        )
    chosen = random.Random(seed).sample(candidates, number)
    return chosen if task.sequence_length else to_tokens(chosen)


def mean_gradient_magnitudes(checkpoint: Checkpoint, examples: list[Example]) -> dict[str, np.ndarray]:
    """Return the mean over examples of |dL_i/dW| by layer: fp32 (rows, cols), non-negative.

    Each example is a batch of its own, so that the gradients of two examples are never added before their magnitudes are
    taken. The padding to MULTIPLE does not change the loss. A hook adds each gradient's magnitude to its sum and frees the
    gradient at once. So memory is the model, the sums (on the CPU), one gradient and the activations of one example. An
    expert that no token reaches gets 0. Raises InputError if a value is not finite."""
    model, linears, device = _load(checkpoint)
    model.requires_grad_(False)
    sums = {layer: torch.zeros(linear.weight.shape) for layer, linear in linears.items()}
    for layer, linear in linears.items():
        linear.weight.requires_grad_(True).register_post_accumulate_grad_hook(_add_magnitude_to(sums[layer]))
    # The longest example comes first, so that the heap does not grow later.
    longest_first = sorted(examples, key=lambda example: -len(example.ids))
    for example in tqdm(longest_first, desc="gradients"):
        batch = collate([example], MULTIPLE).to(device)
        AnswerLoss(model)(batch).mean().backward()
    for layer, total in sums.items():
        total /= len(examples)
        _check_finite(layer, total, "a gradient")
    return {layer: total.numpy() for layer, total in sums.items()}


def input_norms(checkpoint: Checkpoint, examples: list[Example]) -> dict[str, np.ndarray]:
    """Return ||X_j||_2 by layer over all tokens of all examples in the dense model, fp32 (cols,).

    An expert that no token reaches gets zeros. Raises InputError if a norm is not finite.

    Wanda's scaler_row is the mean over samples of ||X_j||^2 (locuslab/wanda@42e856e, lib/layerwrapper.py). Its root is this
    norm divided by a constant, which changes no ranking within a layer."""
    norms: dict[str, np.ndarray] = {}

    def note(layer: str, _, squares: Tensor) -> None:
        norms[layer] = _norm(layer, squares)

    _in_sequence(checkpoint, examples, _squared_norms, note, changes_weights=False)
    return norms


def sequential_prune(
    checkpoint: Checkpoint, examples: list[Example], prune: Callable[[str, np.ndarray], np.ndarray]
) -> None:
    """Prune the model decoder layer by decoder layer, as Wanda is published.

    prune(layer, norms fp32 (cols,)) returns each mask, bool (rows, cols), True if kept. Raises InputError if a norm is not
    finite.

    Source: arXiv 2306.11695, section 3; locuslab/wanda@069ac97, lib/prune.py, prune_wanda."""

    def change(layer: str, weight: Tensor, squares: Tensor) -> None:
        kept = torch.from_numpy(prune(layer, _norm(layer, squares))).to(weight.device)
        weight.masked_fill_(~kept, 0)

    _in_sequence(checkpoint, examples, _squared_norms, change)


def sequential_update(
    checkpoint: Checkpoint, examples: list[Example], update: Callable[[str, Tensor, Tensor], Tensor]
) -> None:
    """Prune and update the model decoder layer by decoder layer, as SparseGPT is published.

    update(layer, weight fp32 (rows, cols), Hessian fp32 (cols, cols)) returns each layer's new weight. Raises InputError if an
    input is not finite.

    Source: arXiv 2301.00774; IST-DASLab/sparsegpt@147d215, llama.py, llama_sequential."""

    def change(layer: str, weight: Tensor, hessian: Tensor) -> None:
        _check_finite(layer, hessian.diagonal(), "an input")
        weight.copy_(update(layer, weight.float(), hessian))

    _in_sequence(checkpoint, examples, _hessians, change)


@torch.no_grad()
def _in_sequence(
    checkpoint: Checkpoint,
    examples: list[Example],
    sums_of: Callable[[Linears], AbstractContextManager[dict[str, Tensor]]],
    change: Callable[[str, Tensor, Tensor], None],
    *,
    changes_weights: bool = True,
) -> None:
    """Run the model decoder layer by decoder layer, and change its weights. The steps for each decoder layer are:

    1. Collect the sums over the inputs of its layers while their weights are whole.
    2. Call change(layer, weight, sum) for each of its layers.
    3. Compute the outputs again if `changes_weights`. They are the inputs of the next decoder layer.

    Memory is one decoder layer with its sums, the weights outside the decoder layers, the examples' hidden states, and the
    layers' keywords for each length of an example."""
    use_repeatable_kernels()
    layered = LayeredModel(checkpoint, choose_device())
    prunable = prunable_layers(checkpoint)
    stream = Stream(layered.model, examples, layered.device)
    for number in tqdm(range(len(layered)), desc="decoder layers"):
        with layered.layer(number):
            linears = layered.linears(number, prunable)
            with sums_of(linears) as sums:
                _run_layer(stream, number, advance=not changes_weights)
            for layer, linear in linears.items():
                change(layer, linear.weight, sums.pop(layer))
            if changes_weights:
                _run_layer(stream, number, advance=True)


def _run_layer(stream: Stream, number: int, *, advance: bool) -> None:
    """Run a decoder layer on every example by itself. With `advance`, its outputs enter the next decoder layer."""
    for example in range(len(stream.states)):
        outputs = stream.outputs(number, [example])
        if advance:
            stream.advance([example], outputs)


def _load(checkpoint: Checkpoint) -> tuple[nn.Module, Linears, torch.device]:
    """Return the model, its prunable layers and its device. Experts that transformers fused are single layers again."""
    use_repeatable_kernels()
    device = choose_device()
    model, _ = load_model(checkpoint.folder, device)
    if model.dtype == torch.float16:
        model.float()
    unfuse_experts(model)
    paths = {layer: memory_path(checkpoint.architecture, layer) for layer in prunable_layers(checkpoint)}
    linears = {layer: model.get_submodule(path) for layer, path in paths.items()}
    return model, linears, device


def _add_magnitude_to(total: Tensor) -> Callable[[Tensor], None]:
    """Return a hook that adds |gradient| to `total`, in fp32, and frees the gradient."""

    def add_and_free(weight: Tensor) -> None:
        total.add_(weight.grad.abs_().to(total.device))
        weight.grad = None

    return add_and_free


def _squared_norms(linears: Linears) -> AbstractContextManager[dict[str, Tensor]]:
    """Return a context in which forward passes sum the squares of each input column by layer, fp64 (cols,)."""

    def add(total: Tensor, x: Tensor) -> None:
        total += torch.linalg.vector_norm(x, dim=0, dtype=torch.float32).double().square()

    sums = {layer: _zeros(linear, linear.in_features, dtype=torch.float64) for layer, linear in linears.items()}
    return _added(linears, sums, add)


def _hessians(linears: Linears) -> AbstractContextManager[dict[str, Tensor]]:
    """Return a context in which forward passes sum x x^T over the inputs x by layer, fp32 (cols, cols)."""

    def add(total: Tensor, x: Tensor) -> None:
        x = x.float()
        total.addmm_(x.T, x)

    sums = {layer: _zeros(linear, linear.in_features, linear.in_features) for layer, linear in linears.items()}
    return _added(linears, sums, add)


def _zeros(linear: nn.Linear, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return zeros on the device of a layer."""
    return torch.zeros(shape, dtype=dtype, device=linear.weight.device)


@contextmanager
def _added(
    linears: Linears, sums: dict[str, Tensor], add: Callable[[Tensor, Tensor], None]
) -> Iterator[dict[str, Tensor]]:
    """Yield `sums`, by layer. In the block, every forward pass calls add(sum, x) with each layer's inputs x (tokens, cols)."""

    def collect(layer: str) -> Callable:
        # An expert's input has 2 dimensions, and that of any other layer has 3.
        return lambda _, inputs: add(sums[layer], inputs[0].flatten(0, -2))

    handles = [linear.register_forward_pre_hook(collect(layer)) for layer, linear in linears.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _norm(layer: str, squares: Tensor) -> np.ndarray:
    """Return the square roots of a layer's sums, fp32 (cols,). Raises InputError if one is not finite."""
    norm = squares.sqrt().float().cpu()
    _check_finite(layer, norm, "an input")
    return norm.numpy()


def _check_finite(layer: str, values: Tensor, what: str) -> None:
    """Raise InputError if a value is not finite. The values are not negative, and their maximum is NaN if one is NaN."""
    if not math.isfinite(values.max()):
        raise InputError(f"{layer}: {what} is not finite", "check the model's weights, or use another importance")
