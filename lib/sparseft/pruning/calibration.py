"""Compute the statistic of an importance over examples: of the gradients of the training loss, or of every layer's
inputs.

calibration_examples.py chooses the examples. The files of the importances define the statistics, in these letters:

    dL_i/dW   the gradient, (rows, cols); L_i is the mean answer loss of example i, nats per answer token
              (models/language_model/loss.py)
    X         the inputs of a layer, (all tokens of all examples, cols)

Why the mean of magnitudes, and not the magnitude of the mean gradient? At a trained model, the gradients of the
examples nearly cancel, and their mean is mostly noise. Magnitudes cannot cancel. The sources:

    Molchanov et al. 2017, arXiv 1611.06440    E[g w] tends to 0, and E|g w| does not
    Molchanov et al. 2019, arXiv 1906.10771    take the mean of (g w)^2; the mean of g^2 is the Fisher information
    LLM-Pruner, arXiv 2305.11627               the first-order term of a language model does not vanish on data that
                                               it was not trained on

benchmarks/results/importance.md has our results.

A float16 model is calibrated in float32, because its gradients would underflow.
"""

import math
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparseft.axes.importances import Statistic
from sparseft.common.errors import InputError
from sparseft.common.progress import show
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.hardware import choose_device
from sparseft.models.language_model.layered_model import LayeredModel, Stream, entering
from sparseft.models.language_model.loss import AnswerLoss

# Examples are padded to a multiple of this length, because oneDNN keeps 10 MB per distinct length (bf16, a 135M model).
MULTIPLE = 32


@dataclass(frozen=True)
class ExampleCalibration:
    """Compute the statistics of a method over its examples. `meta` is added to the metadata of the masks.

    examples_of returns the examples as the token ids of a checkpoint's model."""

    examples_of: Callable[[Checkpoint], list[Example]]
    meta: dict
    # (folder of a checkpoint, statistic) -> its result, because an allocation and the scores may need the same one.
    _results: dict[tuple[Path, Statistic], dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    @torch.no_grad()
    def in_sequence(
        self, checkpoint: Checkpoint, statistic: Statistic, observed: Container[str] | None = None
    ) -> Iterator[tuple[dict[str, Tensor], Callable[[str], Tensor]]]:
        """Yield the weights of each decoder layer and their statistic, as Wanda and SparseGPT are published.

        The caller changes the weights, layer -> (rows, cols), in place before it asks for the next decoder layer, whose
        inputs then come from the changed ones. values_of(layer) returns the statistic of a layer's inputs while all
        weights of its decoder layer were whole, fp32, once. Only the layers in `observed` have one; None means all.
        Raises InputError if it is not finite.

        Memory is one decoder layer with its totals, the weights outside the decoder layers, the examples' hidden
        states, and the layers' keywords for each length of an example.

        Sources: arXiv 2306.11695, section 3; locuslab/wanda@069ac97, lib/prune.py, prune_wanda. arXiv 2301.00774;
        IST-DASLab/sparsegpt@147d215, llama.py, llama_sequential."""
        for stream, number, linears in decoder_layers(checkpoint, self.examples_of(checkpoint)):
            wanted = {layer: linears[layer] for layer in linears if observed is None or layer in observed}
            with _accumulated(statistic, wanted) as values_of:
                run_layer(stream, number, advance=False)
            weights = {layer: linear.weight for layer, linear in linears.items()}
            yield weights, values_of
            # The caller's variable would keep them until the next ones are there.
            weights.clear()
            run_layer(stream, number, advance=True)

    def compute(self, checkpoint: Checkpoint, statistic: Statistic) -> dict[str, np.ndarray]:
        """Return a statistic of the dense model by layer over all examples, fp32. It is computed once.

        An expert that no token reaches has a total of zeros. Raises InputError if a value is not finite."""
        key = checkpoint.folder, statistic
        if key not in self._results:
            values: dict[str, np.ndarray] = {}
            if statistic.of_gradients:
                for part in self.compute_gradients(checkpoint, statistic):
                    values |= part
            else:
                with torch.no_grad():
                    for stream, number, linears in decoder_layers(checkpoint, self.examples_of(checkpoint)):
                        with _accumulated(statistic, linears) as values_of:
                            run_layer(stream, number, advance=True)
                        values |= {layer: values_of(layer).cpu().numpy() for layer in linears}
            self._results[key] = values
        return self._results[key]

    def compute_gradients(self, checkpoint: Checkpoint, statistic: Statistic) -> Iterator[dict[str, np.ndarray]]:
        """Yield a statistic of the gradients dL_i/dW of the dense model by layer, fp32, decoder layer by decoder layer,
        from the last to the first.

        Each example is a batch of its own, so that the gradients of two examples are never added before the statistic
        sees them. The padding to MULTIPLE does not change the loss. The bits are those of a backward through the whole
        model.

        A forward pass keeps what enters each decoder layer. Then one decoder layer at a time is computed again, with
        its backward, on all examples. Memory is one decoder layer with its totals, one gradient, the weights outside
        the decoder layers, the activations of one example in one decoder layer, and the kept inputs of all examples in
        the machine's memory."""
        layered = LayeredModel(checkpoint, choose_device(), widens_float16=True)
        layered.model.requires_grad_(False)
        layered.read_head()
        # The longest example comes first, so that the heap does not grow later.
        examples = sorted(self.examples_of(checkpoint), key=lambda example: -len(example.ids))
        batches = [collate([example], MULTIPLE) for example in examples]
        # With the gradients of the outputs.
        stream = Stream(layered, [batch.ids[0] for batch in batches], copies=len(layered) + 1)
        # What enters each decoder layer, by example.
        inputs = [stream.states]
        # What the loss says of the outputs of a decoder layer, and then of its inputs, by example.
        gradients: list[Tensor | None] = [None] * len(batches)
        forward, backward = range(len(layered) - 1), reversed(range(len(layered)))
        order = [*forward, *backward]
        for step, number in enumerate(show(layered.layers(order), "gradients", len(order))):
            if step in forward:
                stream.states = list(inputs[number])
                with torch.no_grad():
                    run_layer(stream, number, advance=True)
                inputs.append(stream.states)
                continue
            stream.states = inputs.pop()
            linears = layered.linears(number)
            totals = {layer: _zeros(statistic, linear.weight) for layer, linear in linears.items()}
            for layer, linear in linears.items():
                linear.weight.requires_grad_(True)
                linear.weight.register_post_accumulate_grad_hook(partial(_add_and_free, statistic, totals, layer))
            for example, batch in enumerate(batches):
                # The embeddings need no gradient.
                states = stream.states[example].detach().requires_grad_(number > 0)
                stream.states[example] = states
                gradient = gradients[example]
                if gradient is None:
                    # After the last decoder layer comes the loss of the example.
                    with entering(layered.model, number, states[None].to(layered.device)):
                        AnswerLoss(layered.model)(batch.to(layered.device)).mean().backward()
                else:
                    stream.outputs(number, [example]).backward(gradient.to(layered.device))
                gradients[example] = states.grad
            # The totals are popped, because those of two decoder layers must not be in memory at once.
            yield {
                layer: _finished(layer, statistic, totals.pop(layer), len(batches)).cpu().numpy() for layer in linears
            }


def decoder_layers(
    checkpoint: Checkpoint, examples: list[Example]
) -> Iterator[tuple[Stream, int, dict[str, nn.Linear]]]:
    """Yield what enters each decoder layer of a model, its number, and its prunable layers by name."""
    layered = LayeredModel(checkpoint, choose_device(), widens_float16=True)
    stream = Stream(layered, [torch.tensor(example.ids) for example in examples])
    for number in show(layered.layers(range(len(layered))), "decoder layer", len(layered)):
        yield stream, number, layered.linears(number)


@contextmanager
def _accumulated(statistic: Statistic, linears: dict[str, nn.Linear]) -> Iterator[Callable[[str], Tensor]]:
    """Accumulate the statistic of the inputs of some layers during the block.

    Yield a function that returns the statistic of a layer after it, once, because it frees the layer's total."""
    totals = {layer: _zeros(statistic, linear.weight) for layer, linear in linears.items()}
    tokens: Counter[str] = Counter()

    def add_inputs(layer: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # (tokens, cols). An expert's input has 2 dimensions, and that of any other layer has 3.
        x = inputs[0].flatten(0, -2)
        statistic.add(totals[layer], x)
        tokens[layer] += len(x)

    hooks = [linear.register_forward_pre_hook(partial(add_inputs, layer)) for layer, linear in linears.items()]
    yield lambda layer: _finished(layer, statistic, totals.pop(layer), tokens[layer])
    for hook in hooks:
        hook.remove()


def _add_and_free(statistic: Statistic, totals: dict[str, Tensor], layer: str, weight: Tensor) -> None:
    """Add a weight's gradient to the total of its layer, and free it."""
    statistic.add(totals[layer], weight.grad)
    weight.grad = None


def run_layer(stream: Stream, number: int, *, advance: bool) -> None:
    """Run a decoder layer on every example by itself. With `advance`, its outputs enter the next decoder layer."""
    for example in range(len(stream.states)):
        outputs = stream.outputs(number, [example])
        if advance:
            stream.advance([example], outputs)


def _zeros(statistic: Statistic, weight: Tensor) -> Tensor:
    """Return the total of a layer's statistic before the first example."""
    return torch.zeros(statistic.shape(*weight.shape), dtype=getattr(torch, statistic.dtype), device=weight.device)


def _finished(layer: str, statistic: Statistic, total: Tensor, count: int) -> Tensor:
    """Return the statistic of a layer, fp32, on the device of its total. Raises InputError if a value is not finite."""
    # An expert that no token reaches has a mean of 0.
    values = statistic.finish(total, max(1, count))
    # Both are NaN if a value is NaN.
    if not all(map(math.isfinite, values.aminmax())):
        what = "a gradient" if statistic.of_gradients else "an input"
        raise InputError(f"{layer}: {what} is not finite", "check the model's weights, or use another importance")
    return values
