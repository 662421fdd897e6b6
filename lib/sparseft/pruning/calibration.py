"""Compute the statistic of an importance over examples: of the gradients of the training loss, or of every layer's inputs.

The examples are training rows of a task, or windows of a text. A window comes from a random document, or is chosen as wanda's
`get_c4` does (locuslab/wanda, lib/data.py). The files of the importances define the statistics, in these letters:

    dL_i/dW   the gradient, (rows, cols); L_i is the mean answer loss of example i, nats per answer token (language_model/loss.py)
    X         the inputs of a layer, (all tokens of all examples, cols)

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
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.data.prepared import find_task, read_prepared
from sparseft.data.rows import read_rows
from sparseft.data.texts import MODEL, WINDOW, has_windows, read_documents, recorded_source
from sparseft.errors import InputError
from sparseft.importances import Importance, Statistic
from sparseft.language_model.batches import Batch, Example, collate, encode
from sparseft.language_model.hardware import choose_device
from sparseft.language_model.layered_model import LayeredModel, Stream, entering
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import model_config
from sparseft.methods import Method
from sparseft.progress import show
from sparseft.study.mask_settings import Masks, segment_length
from sparseft.study.sources import CalibrationText
from sparseft.tasks.task import DOCUMENT_BREAK, Row, Task

# Takes the weights of a decoder layer, layer -> (rows, cols), and a function that returns the evidence of a layer.
Change = Callable[[dict[str, Tensor], Callable[[str], Tensor]], None]
# Examples are padded to a multiple of this length, because oneDNN keeps 10 MB per distinct length (bf16, a 135M model).
MULTIPLE = 32


@dataclass(frozen=True)
class ExampleCalibration:
    """Hold how a method gets its evidence from examples. `meta` is added to the metadata of the masks."""

    importance: Importance | None
    # Returns the examples as the token ids of a checkpoint's model.
    examples_of: Callable[[Checkpoint], list[Example]]
    meta: dict
    # (folder of a checkpoint, statistic) -> its result, because an allocation and the scores may need the same one.
    _results: dict[tuple[Path, Statistic], dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def evidence(self, checkpoint: Checkpoint, statistic: Statistic) -> dict[str, np.ndarray]:
        """Return a statistic of the dense model by layer, fp32. It is computed once."""
        key = checkpoint.folder, statistic
        if key not in self._results:
            self._results[key] = compute_statistic(checkpoint, self.examples_of(checkpoint), statistic)
        return self._results[key]

    def evidence_of_gradients(self, checkpoint: Checkpoint, statistic: Statistic) -> Iterator[dict[str, np.ndarray]]:
        """Yield a statistic of the dense model's gradients by layer, fp32, decoder layer by decoder layer, last one first."""
        return _of_gradients(checkpoint, self.examples_of(checkpoint), statistic)

    def prune_in_sequence(
        self, checkpoint: Checkpoint, statistic: Statistic, prune: Change, observed: Container[str] | None = None
    ) -> None:
        """Prune the model decoder layer by decoder layer, as Wanda and SparseGPT are published.

        prune(weights, evidence) changes the weights of a decoder layer, layer -> (rows, cols), in place. evidence(layer) returns
        the statistic of a layer's inputs, fp32, once. Only the layers in `observed` have one; None means all. Raises InputError
        if it is not finite.

        Sources: arXiv 2306.11695, section 3; locuslab/wanda@069ac97, lib/prune.py, prune_wanda. arXiv 2301.00774;
        IST-DASLab/sparsegpt@147d215, llama.py, llama_sequential."""
        _in_sequence(checkpoint, self.examples_of(checkpoint), statistic, prune, observed=observed)


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
    examples_of, meta = read_text(path, text)
    source = meta["text_source"] or {}
    # The examples of a task may be a part of the text.
    meta |= {key: source[key] for key in ("task", "train_sha256") if key in source}
    meta |= {"calibration": method.calibration, "accumulated": method.accumulated}
    return ExampleCalibration(method.importance, examples_of, meta)


def read_text(path: Path, text: CalibrationText) -> tuple[Callable[[Checkpoint], list[Example]], dict]:
    """Return a function that gives the examples of a text for a checkpoint, and the text's sha256 and source.

    Of a text of windows, they are the first `text.examples` windows. Raises InputError as `calibrate_on_text` does."""
    documents, digest = read_documents(path)
    source = recorded_source(path, digest)
    if source and has_windows(path):
        examples_of = partial(stored_windows, path=path, model=source[MODEL], number=text.examples)
    else:
        examples_of = partial(text_examples, documents=documents, text=text, place=path)
    return examples_of, {"text_sha256": digest, "text_source": source}


def stored_windows(checkpoint: Checkpoint, path: Path, model: str, number: int) -> list[Example]:
    """Return the first windows in a file of windows of the model with the digest `model`.

    Raises InputError if this is not the checkpoint's, or if the file has fewer windows."""
    if checkpoint.digest != model:
        raise InputError(
            f"{path}: its windows are token ids of another model than {checkpoint.folder}",
            "prepare the text for this model",
        )
    rows = read_rows(path, WINDOW)
    if number > len(rows):
        raise InputError(
            f"{path}: it has {len(rows)} windows, and {number} are asked for",
            f"set the examples in the configuration, or --calibration_examples, to at most {len(rows)}",
        )
    return [Example(row["ids"], row["answer_start"]) for row in rows[:number]]


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
    candidates: list[Any] = to_tokens(rows) if task.sequence_length else rows
    if number > len(candidates):
        raise InputError(
            f"{key} {number}: {task.name} has only {len(candidates)} training"
            f" {'sequences' if task.sequence_length else 'rows'}",
            f"lower {key}, or give more rows",
        )
    chosen = random.Random(seed).sample(candidates, number)
    return chosen if task.sequence_length else to_tokens(chosen)


def text_examples(checkpoint: Checkpoint, documents: list[str], text: CalibrationText, place: Path) -> list[Example]:
    """Return the windows of a text as examples. Their loss is on every token but the first.

    Raises InputError with `place` if the text has too few tokens, or if a window is longer than the model's context."""
    limit = model_config(checkpoint.folder).max_position_embeddings
    if text.length > limit:
        raise InputError(
            f"{place}: windows of {text.length} tokens, but the model takes {limit}",
            f"set the length in masks.calibration, or --calibration_length, to at most {limit}",
        )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    windows = choose_windows(documents, partial(tokenizer.encode, verbose=False), text, place)
    # The first token is given, because nothing predicts it.
    return [Example(window, 1) for window in windows]


def choose_windows(
    documents: list[str], encode: Callable[[str], list[int]], text: CalibrationText, place: Path
) -> list[list[int]]:
    """Return `text.examples` windows of `text.length` token ids. `encode` returns the token ids of a text.

    The documents are taken in random order. Each one that is longer than a window gives one random window, until there are
    enough. `get_c4` does this. If too few documents are that long, all documents are joined by blank lines, and each window
    starts at a random place of the whole text. `get_wikitext2` does this.

    Raises InputError with the `place` of the text if it has fewer tokens than all windows together."""
    generator = random.Random(text.seed)
    if text.choice == "get_c4":
        return _drawn_windows(documents, encode, text, place, generator)
    windows: list[list[int]] = []
    for document in generator.sample(documents, len(documents)):
        ids = encode(document)
        if len(ids) > text.length:
            windows.append(_window(ids, text.length, generator))
        if len(windows) == text.examples:
            return windows
    ids = encode(DOCUMENT_BREAK.join(documents))
    if len(ids) < text.examples * text.length:
        raise InputError(
            f"{place}: {len(ids):,} tokens are fewer than {text.examples:,} windows of {text.length:,} tokens",
            "give more text, or lower the examples or the length of the calibration",
        )
    return [_window(ids, text.length, generator) for _ in range(text.examples)]


def _drawn_windows(
    documents: list[str],
    encode: Callable[[str], list[int]],
    text: CalibrationText,
    place: Path,
    generator: random.Random,
) -> list[list[int]]:
    """Return the windows that wanda's `get_c4` draws.

    Each window comes from any document that is longer, and never starts at the last possible token. Raises InputError if no
    document is longer than a window.

    Source: locuslab/wanda@0628038, lib/data.py, get_c4."""
    windows: list[list[int]] = []
    too_short: set[int] = set()
    while len(windows) < text.examples:
        if len(too_short) == len(documents):
            raise InputError(
                f"{place}: no document is longer than a window of {text.length} tokens, and get_c4 joins none",
                "give longer documents, or lower the length or leave the choice of the calibration out",
            )
        number = generator.randrange(len(documents))
        if number in too_short:
            continue
        ids = encode(documents[number])
        if len(ids) > text.length:
            start = generator.randrange(len(ids) - text.length)
            windows.append(ids[start : start + text.length])
        else:
            too_short.add(number)
    return windows


def compute_statistic(checkpoint: Checkpoint, examples: list[Example], statistic: Statistic) -> dict[str, np.ndarray]:
    """Return a statistic of the dense model by layer over all examples, fp32.

    An expert that no token reaches has a total of zeros. Raises InputError if a value is not finite."""
    values: dict[str, np.ndarray] = {}
    if statistic.of_gradients:
        for part in _of_gradients(checkpoint, examples, statistic):
            values |= part
        return values

    def note(weights: dict[str, Tensor], evidence: Callable[[str], Tensor]) -> None:
        for layer in weights:
            values[layer] = evidence(layer).cpu().numpy()

    _in_sequence(checkpoint, examples, statistic, note, changes_weights=False)
    return values


def _of_gradients(
    checkpoint: Checkpoint, examples: list[Example], statistic: Statistic
) -> Iterator[dict[str, np.ndarray]]:
    """Yield a statistic of the gradients dL_i/dW by layer, fp32, decoder layer by decoder layer, from the last to the first.

    Each example is a batch of its own, so that the gradients of two examples are never added before the statistic sees them. The
    padding to MULTIPLE does not change the loss. The bits are those of a backward through the whole model.

    A forward pass keeps what enters the decoder layers. Then one decoder layer at a time is computed again, with its backward, on
    all examples. Memory is one decoder layer with its totals, one gradient, the weights outside the decoder layers, the
    activations of one example in one decoder layer, and the kept inputs of all examples in the machine's memory."""
    layered = LayeredModel(checkpoint, choose_device(), widens_float16=True)
    layered.model.requires_grad_(False)
    layered.read_head()
    prunable = prunable_layers(checkpoint)
    # The longest example comes first, so that the heap does not grow later.
    batches = [collate([example], MULTIPLE) for example in sorted(examples, key=lambda example: -len(example.ids))]
    stream = Stream(layered, [batch.ids[0] for batch in batches])
    states = sum(of_example.nbytes for of_example in stream.states)
    weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    steps = _steps(len(layered), segment_length(len(layered), states, weights))
    # Decoder layer -> what enters it, by example.
    inputs = {0: stream.states}
    # What the loss says of the outputs of a decoder layer, and then of its inputs, by example.
    gradients: list[Tensor | None] = [None] * len(batches)
    numbers = show(layered.layers([number for number, _ in steps]), "gradients", len(steps))
    for number, (_, step) in zip(numbers, steps, strict=True):
        stream.states = list(inputs[number])
        if step != "keep":
            del inputs[number]
        if step != "backward":
            with torch.no_grad():
                run_layer(stream, number, advance=True)
            inputs[number + 1] = stream.states
            continue
        linears = layered.linears(number, prunable)
        totals = {layer: _zeros(statistic, linear.weight, layered.device) for layer, linear in linears.items()}
        for layer, linear in linears.items():
            linear.weight.requires_grad_(True)
            linear.weight.register_post_accumulate_grad_hook(partial(_add_and_free, statistic, totals, layer))
        for example, batch in enumerate(batches):
            gradients[example] = _backward(layered, stream, number, example, batch, gradients[example])
        # The totals are popped, because those of two decoder layers must not be in memory at once.
        yield {layer: _finished(layer, statistic, totals.pop(layer), len(batches)).cpu().numpy() for layer in linears}


def _steps(layers: int, length: int) -> list[tuple[int, str]]:
    """Return the decoder layers in the order of a backward by segments of `length`, and what happens to the inputs of each.

    They are kept, dropped, or used by the backward. An example with 4 layers in segments of 2:

        0 keep, 1 drop      2 keep, 3 backward, 2 backward      0 keep, 1 backward, 0 backward"""
    starts = range(0, layers, length)
    steps = [(number, "drop" if number % length else "keep") for number in range(starts[-1])]
    for start in reversed(starts):
        segment = range(start, min(start + length, layers))
        steps += [(number, "keep") for number in segment[:-1]]
        steps += [(number, "backward") for number in reversed(segment)]
    return steps


def _backward(
    layered: LayeredModel, stream: Stream, number: int, example: int, batch: Batch, gradient: Tensor | None
) -> Tensor | None:
    """Compute decoder layer `number` and its backward on one example. Return the gradient of its inputs, (tokens, H).

    `gradient` is that of its outputs. It is None of the last decoder layer, after which comes the loss of the example's
    batch. The embeddings need no gradient."""
    states = stream.states[example] = stream.states[example].detach().requires_grad_(number > 0)
    if gradient is None:
        with entering(layered.model, number, states[None].to(layered.device)):
            AnswerLoss(layered.model)(batch.to(layered.device)).mean().backward()
    else:
        stream.outputs(number, [example]).backward(gradient.to(layered.device))
    return states.grad


def _add_and_free(statistic: Statistic, totals: dict[str, Tensor], layer: str, weight: Tensor) -> None:
    """Add a weight's gradient to the total of its layer, and free it."""
    statistic.add(totals[layer], weight.grad)
    weight.grad = None


@torch.no_grad()
def _in_sequence(
    checkpoint: Checkpoint,
    examples: list[Example],
    statistic: Statistic,
    change: Change,
    *,
    changes_weights: bool = True,
    observed: Container[str] | None = None,
) -> None:
    """Run the model decoder layer by decoder layer, and change its weights. The steps for each decoder layer are:

    1. Accumulate the statistic of the inputs of its layers in `observed`, None meaning all, while their weights are whole.
    2. Call change(weights, evidence), as `prune_in_sequence` says.
    3. Compute the outputs again if `changes_weights`. They are the inputs of the next decoder layer.

    Memory is one decoder layer with its totals, the weights outside the decoder layers, the examples' hidden states, and the
    layers' keywords for each length of an example."""
    layered = LayeredModel(checkpoint, choose_device(), widens_float16=True)
    prunable = prunable_layers(checkpoint)
    stream = Stream(layered, [torch.tensor(example.ids) for example in examples])
    totals: dict[str, Tensor] = {}
    tokens: Counter[str] = Counter()

    def add_inputs(layer: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # (tokens, cols). An expert's input has 2 dimensions, and that of any other layer has 3.
        x = inputs[0].flatten(0, -2)
        statistic.add(totals[layer], x)
        tokens[layer] += len(x)

    for number in show(layered.layers(range(len(layered))), "decoder layer", len(layered)):
        linears = layered.linears(number, prunable)
        hooks = []
        for layer, linear in linears.items():
            if observed is None or layer in observed:
                totals[layer] = _zeros(statistic, linear.weight, layered.device)
                hooks.append(linear.register_forward_pre_hook(partial(add_inputs, layer)))
        run_layer(stream, number, advance=not changes_weights)
        for hook in hooks:
            hook.remove()
        # A total is freed when the layer is changed.
        change(
            {layer: linear.weight for layer, linear in linears.items()},
            lambda layer: _finished(layer, statistic, totals.pop(layer), tokens[layer]),
        )
        if changes_weights:
            run_layer(stream, number, advance=True)


def run_layer(stream: Stream, number: int, *, advance: bool) -> None:
    """Run a decoder layer on every example by itself. With `advance`, its outputs enter the next decoder layer."""
    for example in range(len(stream.states)):
        outputs = stream.outputs(number, [example])
        if advance:
            stream.advance([example], outputs)


def _zeros(statistic: Statistic, weight: Tensor, device: torch.device) -> Tensor:
    """Return the total of a layer's statistic before the first example."""
    return torch.zeros(statistic.shape(*weight.shape), dtype=getattr(torch, statistic.dtype), device=device)


def _finished(layer: str, statistic: Statistic, total: Tensor, count: int) -> Tensor:
    """Return the evidence of a layer, fp32, on the device of its total. Raises InputError if a value is not finite."""
    # An expert that no token reaches has a mean of 0.
    evidence = statistic.finish(total, max(1, count))
    # Both are NaN if a value is NaN.
    if not all(map(math.isfinite, evidence.aminmax())):
        what = "a gradient" if statistic.of_gradients else "an input"
        raise InputError(f"{layer}: {what} is not finite", "check the model's weights, or use another importance")
    return evidence


def _window(ids: list[int], length: int, generator: random.Random) -> list[int]:
    """Return `length` consecutive ids that start at a random place."""
    start = generator.randrange(len(ids) - length + 1)
    return ids[start : start + length]
