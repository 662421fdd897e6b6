"""Score the experts or the decoder layers of a model by what they compute on examples.

A group is what loses its units together: a decoder layer with its experts, or the model with its decoder layers. The
files of the importances have the scores. The model runs decoder layer by decoder layer, and each example runs by
itself, so no token is padding. Memory is one decoder layer, the weights outside the decoder layers, and the hidden
states of the examples.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sparseft.common.errors import InputError
from sparseft.common.progress import show
from sparseft.models.language_model.batches import Batch, Example
from sparseft.models.language_model.hardware import choose_device
from sparseft.models.language_model.layered_model import LayeredModel, Stream, entering
from sparseft.models.language_model.loss import AnswerLoss, evaluation_batches, mean_answer_loss
from sparseft.pruning.calibration import decoder_layers, run_layer
from sparseft.pruning.mask_generator import MaskPass


@dataclass(frozen=True)
class Routed:
    """Hold what the experts of a decoder layer compute on some tokens. Each tensor is (tokens, experts).

    probabilities  the softmax of the router's logits over all experts, fp32
    chosen         whether an expert is among the top k of a token, bool
    norms          the norm of the expert's output before the router's weight, fp32; 0 where it is not chosen"""

    probabilities: Tensor
    chosen: Tensor
    norms: Tensor


@dataclass(frozen=True)
class Observation:
    """Run a model over the examples, for the `score_units` of an importance. `shape` is (groups, units)."""

    masks: MaskPass
    shape: tuple[int, int]

    @property
    def examples(self) -> list[Example]:
        """Return the examples."""
        return self.masks.calibration.examples_of(self.masks.checkpoint)

    def sum_by_expert(self, values: Callable[[Routed], Tensor]) -> np.ndarray:
        """Return the sums over all examples of the `values` of each expert, float64 (decoder layers, ..., experts).

        `values` returns (..., experts) for an example in a decoder layer."""
        names = self.masks.checkpoint.architecture.experts
        assert names, "the model has no experts"

        def observe(stream: Stream, number: int) -> list[Tensor]:
            parts: list[Tensor] = []
            with _routed(getattr(stream.model.model.layers[number], names.in_memory), values, parts):
                run_layer(stream, number, advance=True)
            return parts

        return self._sums(observe)

    def sum_by_layer(self, value: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
        """Return the sum over all examples of the `value` of each decoder layer, float64 (decoder layers,).

        `value` returns a number for the inputs and the outputs of an example, (tokens, H)."""

        def observe(stream: Stream, number: int) -> list[Tensor]:
            parts = []
            for example in range(len(stream.states)):
                inputs, outputs = stream.states[example].to(stream.device), stream.outputs(number, [example])
                parts.append(value(inputs, outputs))
                stream.advance([example], outputs)
            return parts

        return self._sums(observe)

    @torch.no_grad()
    def _sums(self, observe: Callable[[Stream, int], list[Tensor]]) -> np.ndarray:
        """Return the sums of what `observe` gives for the examples in each decoder layer, float64 (decoder layers,
        ...).

        `observe` computes the decoder layer on every example."""
        layers = decoder_layers(self.masks.checkpoint, self.examples)
        sums = [sum(part.double() for part in observe(stream, number)).cpu() for stream, number, _ in layers]
        return torch.stack(sums).numpy()

    @torch.no_grad()
    def losses_without_layers(self) -> np.ndarray:
        """Return the mean answer loss of the model without each decoder layer, float64 (decoder layers,).

        The decoder layers before the one that is left out are computed once for all. Two copies of the hidden states
        are kept."""
        examples = self.examples
        layered = LayeredModel(self.masks.checkpoint, choose_device(), widens_float16=True)
        layered.read_head()
        stream = Stream(layered, [torch.tensor(example.ids) for example in examples], copies=2)
        losses = []
        for left_out in show(range(len(layered)), "decoder layer", len(layered)):
            before = list(stream.states)
            for number in layered.layers(range(left_out + 1, len(layered))):
                run_layer(stream, number, advance=True)
            losses.append(_mean_loss(layered, stream.states, examples))
            stream.states = before
            for number in layered.layers([left_out]):
                run_layer(stream, number, advance=True)
        return np.array(losses)


def score_units(masks: MaskPass) -> np.ndarray:
    """Return the score of each unit that the method may remove, float64 (groups, units).

    Raises InputError if one is not finite, or if the model has no such units."""
    checkpoint, method = masks.checkpoint, masks.method
    importance, units = method.importance, method.pattern.units
    assert importance and importance.score_units and units, f"{method.name} removes no units"
    number = units.number(masks.model)
    groups = {unit[0] for name in checkpoint.tensors if (unit := units.unit_of(name))}
    scores = importance.score_units(Observation(masks, (len(groups), number)))
    if not np.isfinite(scores).all():
        raise InputError(
            f"{checkpoint.folder}: a score of {method.name} is not finite",
            "check the model's weights, or use another importance",
        )
    return scores.astype(np.float64)


@contextmanager
def _routed(block: nn.Module, values: Callable[[Routed], Tensor], parts: list[Tensor]) -> Iterator[None]:
    """Add the `values` to `parts` each time that a block of experts has run."""
    router: list[Tensor] = []
    norms: list[Tensor] = []

    def note_router(_: nn.Module, __: tuple, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        # The logits (tokens, experts), the weights of the top k, and their numbers (tokens, k).
        router[:] = outputs[0], outputs[2]

    def note_norms(_: nn.Module, __: tuple, outputs: Tensor) -> None:
        norms.append(torch.linalg.vector_norm(outputs, dim=1, dtype=torch.float32))

    def finish(*_: object) -> None:
        logits, numbers = router
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, numbers, True)
        table = torch.zeros_like(logits, dtype=torch.float32)
        # The experts run in the order of their numbers, and each one gets its tokens in their order.
        table.T[chosen.T] = torch.cat(norms)
        norms.clear()
        routed = Routed(logits.softmax(1, dtype=torch.float32), chosen, table)
        parts.append(values(routed))

    # transformers calls the router `gate` in every class.
    hooks = [block.gate.register_forward_hook(note_router), block.register_forward_hook(finish)]
    hooks += [expert.register_forward_hook(note_norms) for expert in block.experts]
    yield
    for hook in hooks:
        hook.remove()


def _mean_loss(layered: LayeredModel, states: list[Tensor], examples: list[Example]) -> float:
    """Return the mean answer loss of the examples, whose `states` (tokens, H) leave the last decoder layer."""
    loss, order = AnswerLoss(layered.model), iter(evaluation_batches(examples, 1))

    def of_example(batch: Batch) -> Tensor:
        (number,) = next(order)
        with entering(layered.model, len(layered), states[number][None].to(layered.device)):
            return loss(batch)

    return mean_answer_loss(of_example, examples, 1, layered.device)
