"""What importances see of a task: gradients of its training loss, norms of the activations that it causes.

gradient  mean_i |dL_i/dW|      L_i: the mean answer loss of example i, nats per answer token (training/loss.py)
taylor    mean_i |W * dL_i/dW|  = |W| * mean_i |dL_i/dW|
wanda     |W_ij| * ||X_j||      X: the layer's inputs (all tokens of all examples, cols)

The mean is one of per-example magnitudes, not the magnitude of the mean gradient: at a trained model the mean gradient
nearly vanishes, what is left of it is noise, and magnitudes cannot cancel (with squares for magnitudes it would be the
empirical Fisher information). Molchanov et al. 2017, arXiv 1611.06440: E[g w] tends to 0 where E|g w| does
not; 2019, arXiv 1906.10771: the mean of (g w)^2. LLM-Pruner, arXiv 2305.11627: the first-order
term of a language model does not vanish on calibration data that it was not trained on.
Results: benchmarks/results/importance.md. A float16 model is calibrated in fp32, for its gradients would underflow.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, collate, encode
from sparseft.language_model.experts import memory_path, unfuse_experts
from sparseft.language_model.hardware import choose_device
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import load_model
from sparseft.pruning.scores import Calibration, Source, array_source, wanda_source
from sparseft.study.config import Masks
from sparseft.tasks import get_task
from sparseft.tasks.prepared import read_prepared
from sparseft.tasks.task import Row, Task

Linears = dict[str, nn.Linear]  # by the layer's name on disk
MULTIPLE = 32  # of an example's length: oneDNN keeps 10 MB for every length that it has met (bf16, a 135M model)

ACCUMULATED = {
    "gradient": "mean over examples of |dL/dw|, L the mean answer loss of one example",
    "taylor": "mean over examples of |w dL/dw|, L the mean answer loss of one example",
    "wanda": "norm of the inputs over all tokens of all examples",
}


def calibrate(importance: str, task_name: str, train: Path, settings: Masks) -> Calibration:
    """Return what `importance` needs of a task: settings.calibration_examples of the rows in `train`, a .jsonl file.

    Raises InputError if the file holds no rows of the task, or too few, or is not the one that its manifest records."""
    task = get_task(task_name)
    rows, train_sha256 = read_prepared(train, task)

    def examples(checkpoint: Checkpoint) -> list[Example]:
        number, seed = settings.calibration_examples, settings.calibration_seed
        return calibration_examples(checkpoint, task, rows, number, seed)

    def source(checkpoint: Checkpoint) -> Source:
        if importance == "wanda":
            return wanda_source(checkpoint, input_norms(checkpoint, examples(checkpoint)))
        return array_source(gradient_scores(checkpoint, examples(checkpoint), taylor=importance == "taylor"))

    def prune_in_sequence(checkpoint: Checkpoint, prune: Callable[[str, np.ndarray], np.ndarray]) -> None:
        sequential_prune(checkpoint, examples(checkpoint), prune)

    meta = {"task": task.name, "train_sha256": train_sha256, "accumulated": ACCUMULATED[importance]}
    return Calibration(importance, meta, source, prune_in_sequence)


def calibration_examples(checkpoint: Checkpoint, task: Task, rows: list[Row], number: int, seed: int) -> list[Example]:
    """`number` of the task's training rows, drawn by `seed`, as the token ids that training reads.

    Raises InputError where there is no row, fewer than `number`, or one that the model's context cannot hold."""
    if not rows or number < 1:
        raise InputError(f"{task.name}: no calibration examples", "give training rows and ask for one or more of them")
    if number > len(rows):
        raise InputError(
            f"{task.name}: {len(rows)} training rows, {number} calibration examples are asked for",
            "lower masks.calibration_examples, or give more rows",
        )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    chosen = random.Random(seed).sample(rows, number)
    return encode(chosen, task, tokenizer, checkpoint.config["max_position_embeddings"])


def gradient_scores(checkpoint: Checkpoint, examples: list[Example], *, taylor: bool) -> dict[str, np.ndarray]:
    """layer -> mean over examples of |dL_i/dW|, or of |W * dL_i/dW| (taylor): fp32 (rows, cols), non-negative.

    Examples go one at a time, so nothing is pooled; what pads one to MULTIPLE has no part in its loss. A hook adds each
    gradient to its score and frees it as soon as it is there: memory is the model, the scores (on the CPU), one gradient
    and one example's activations. An expert that no token reaches scores 0.
    Raises InputError where a score is not finite."""
    model, linears, device = _load(checkpoint)
    model.requires_grad_(False)
    scores = {layer: torch.zeros(linear.weight.shape) for layer, linear in linears.items()}
    for layer, linear in linears.items():
        linear.weight.requires_grad_(True).register_post_accumulate_grad_hook(_add_magnitude_to(scores[layer]))
    longest_first = sorted(examples, key=lambda example: -len(example.ids))  # the heap does not grow after the first
    for example in tqdm(longest_first, desc="gradients"):
        batch = collate([example], MULTIPLE).to(device)
        AnswerLoss(model)(batch).mean().backward()
    for layer, score in scores.items():
        score /= len(examples)
        if taylor:  # |W| is the same in every example
            score *= linears[layer].weight.detach().abs().cpu()
        _check_finite(layer, score, "a gradient")
    return {layer: score.numpy() for layer, score in scores.items()}


@torch.no_grad()
def input_norms(checkpoint: Checkpoint, examples: list[Example]) -> dict[str, np.ndarray]:
    """layer -> ||X_j||_2 over all tokens of all examples in the dense model, fp32 (cols,); an idle expert's are 0.

    The published scaler_row is the mean over samples of ||X_j||^2 (locuslab/wanda@42e856e, lib/layerwrapper.py): its
    root is this norm over a constant, which changes no ranking within a layer.
    Raises InputError where a norm is not finite."""
    model, linears, device = _load(checkpoint)
    with _squared_norms(linears) as squares:
        for example in tqdm(examples, desc="activations"):
            model.get_decoder()(input_ids=torch.tensor([example.ids], device=device), use_cache=False)
    return _norms(squares)


@torch.no_grad()
def sequential_prune(
    checkpoint: Checkpoint, examples: list[Example], prune: Callable[[str, np.ndarray], np.ndarray]
) -> None:
    """wanda as published (arXiv 2306.11695, section 3; locuslab/wanda@069ac97, lib/prune.py, prune_wanda).

    Decoder layer by decoder layer: collect its norms with its weights as they are, ask prune(layer, norms fp32 (cols,))
    for each mask, bool (rows, cols), True where kept, zero what is pruned, and hand the outputs of the pruned layer to
    the next. Memory is the model and the examples' hidden states. Raises InputError where a norm is not finite."""
    model, linears, device = _load(checkpoint)
    inputs = [_first_inputs(model, torch.tensor([example.ids], device=device)) for example in examples]
    hidden, options = [states for states, _ in inputs], [keywords for _, keywords in inputs]
    for number, decoder_layer in enumerate(tqdm(model.model.layers, desc="sequential wanda")):
        own = {layer: linear for layer, linear in linears.items() if layer.startswith(f"model.layers.{number}.")}
        with _squared_norms(own) as squares:
            for states, keywords in zip(hidden, options, strict=True):
                decoder_layer(states, **keywords)
        for layer, norms in _norms(squares).items():
            kept = torch.from_numpy(prune(layer, norms)).to(device)
            own[layer].weight.masked_fill_(~kept, 0)
        for index, keywords in enumerate(options):
            hidden[index] = decoder_layer(hidden[index], **keywords)  # (1, T, H)


def _load(checkpoint: Checkpoint) -> tuple[nn.Module, Linears, torch.device]:
    """The model with its experts apart, its prunable layers, and where it is."""
    device = choose_device()
    model, _ = load_model(checkpoint.folder, device)
    if model.dtype == torch.float16:
        model.float()
    unfuse_experts(model)
    paths = {layer: memory_path(checkpoint.architecture, layer) for layer in prunable_layers(checkpoint)}
    linears = {layer: model.get_submodule(path) for layer, path in paths.items()}
    return model, linears, device


def _add_magnitude_to(score: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds |gradient| to `score`, in fp32, and frees the gradient."""

    def fold(weight: Tensor) -> None:
        score.add_(weight.grad.abs_().to(score.device))
        weight.grad = None

    return fold


@contextmanager
def _squared_norms(linears: Linears) -> Iterator[dict[str, Tensor]]:
    """layer -> sum of squares of each input column over all that passes through meanwhile, fp64 (cols,)."""
    squares = {
        layer: torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
        for layer, linear in linears.items()
    }

    def collect(layer: str) -> Callable:
        def add(_, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2)  # (tokens, cols): an expert gets 2 dimensions, the others 3
            squares[layer] += torch.linalg.vector_norm(x, dim=0, dtype=torch.float32).double().square()

        return add

    handles = [linear.register_forward_pre_hook(collect(layer)) for layer, linear in linears.items()]
    try:
        yield squares
    finally:
        for handle in handles:
            handle.remove()


def _norms(squares: dict[str, Tensor]) -> dict[str, np.ndarray]:
    norms = {layer: square.sqrt().float().cpu() for layer, square in squares.items()}
    for layer, norm in norms.items():
        _check_finite(layer, norm, "an input")
    return {layer: norm.numpy() for layer, norm in norms.items()}


class _ReachedError(Exception):
    """Ends a forward pass at the first decoder layer."""


def _first_inputs(model: nn.Module, ids: Tensor) -> tuple[Tensor, dict]:
    """What the model hands to its first decoder layer for `ids` (1, T): hidden states (1, T, H) and keywords."""
    found = []

    def stop(_, inputs: tuple[Tensor], keywords: dict) -> None:
        found.append((inputs[0], keywords))
        raise _ReachedError

    handle = model.model.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    with suppress(_ReachedError):
        model.get_decoder()(input_ids=ids, use_cache=False)
    handle.remove()
    return found[0]


def _check_finite(layer: str, values: Tensor, what: str) -> None:
    """`values` are non-negative; their maximum is NaN where one is."""
    if not math.isfinite(values.max()):
        raise InputError(f"{layer}: {what} is not finite", "check the model's weights, or use another importance")
