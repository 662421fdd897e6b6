"""Train adapters to give the outputs of the dense decoder layers, one decoder layer after the other.

    f_b(x)   decoder layer b with its dense weights
    g_b(x)   the same layer with W' = (W + s B A) * M, which starts as the pruned layer, because B starts at 0
    x        the outputs of g_(b-1), and the embeddings for b = 0
    error    the mean of (g_b(x) - f_b(x))^2 over all tokens without padding and all channels
    loss     error / error before the training, so that AdamW's epsilon and the clipping mean the same in every layer

Both layers get the same inputs, the outputs of the reconstructed layers before them. So the error of a layer does not
include the errors of the layers before it.

Memory on the device is one decoder layer, what is outside of the decoder layers, and the activations and the optimiser
of one decoder layer. The machine's memory has the inputs and the targets of one decoder layer for all examples, and A
and B.

Source: PERP, arXiv 2312.15230; ZIB-IOL/PERP@0d4554b, prune_methods.py, prune and reconstruct_weights. PERP's learning
rate decays linearly. Here the schedule is that of `training:`.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sparseft.language_model.batches import Example, shuffled
from sparseft.language_model.hardware import peak_memory
from sparseft.language_model.layered_model import LayeredModel, Stream
from sparseft.lora.masked_lora import LoRALinear, load_factors
from sparseft.study.schedule import Training
from sparseft.training.steps import NOT_SAVED, Progress, SavedState, Steps


@dataclass
class LayerReconstruction:
    """Reconstruct the decoder layers of a dense model on examples, and hold what was measured."""

    layered: LayeredModel
    examples: list[Example]
    # Takes the number of a decoder layer, prunes it, puts LoRA layers into it and returns these by name.
    adapt: Callable[[int], dict[str, LoRALinear]]
    # The schedule of each decoder layer.
    settings: Training
    seed: int
    state: SavedState = NOT_SAVED
    # The results: A and B by layer, and for each decoder layer the losses and the speed of its steps, and its errors
    # over all examples before and after them.
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    # The numbers of the decoder layers after which a killed reconstruction was resumed.
    resumed_after: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Reconstruct every decoder layer. Continue after the last one of the saved state if there is one.

        Raises InputError if a loss or its gradient is not finite."""
        saved = self._resume()
        stream = Stream(self.layered, [torch.tensor(example.ids) for example in self.examples], copies=2)
        done = len(self.progress)
        for number in self.layered.layers(range(len(self.layered))):
            targets = self._targets(stream, number)
            adapted = self.adapt(number)
            if number >= done:
                self.progress.append(self._train(stream, number, targets, adapted))
            else:
                load_factors(adapted, saved)
                self._error(stream, number, targets, advance=True)
            # A decoder layer's own A and B are freed with it.
            for name, layer in adapted.items():
                A, B = layer.factors()
                self.factors[name] = A.detach().cpu(), B.detach().cpu()
            if number >= done:
                self._save()

    def record(self) -> dict:
        """Return the measured part of train.json.

        A step of the record is that step of every decoder layer. Its loss is their mean, and its seconds are their
        sum."""
        layers = self.progress
        progress = Progress(tokens=layers[0].tokens)
        progress.seconds = [sum(seconds) for seconds in zip(*(layer.seconds for layer in layers), strict=True)]
        for points in zip(*(layer.curve for layer in layers), strict=True):
            loss = sum(point["loss"] for point in points) / len(points)
            norm = math.hypot(*(point["gradient_norm"] for point in points))
            progress.curve.append({**points[0], "loss": loss, "gradient_norm": norm})
        return progress.record(self.settings.batch_size, self._peak_memory()) | {
            "reconstruction": {
                "tokens": sum(len(example.ids) for example in self.examples),
                "resumed_after_layers": self.resumed_after,
                "layers": [
                    {
                        "error_before": layer.evaluations[0]["error"],
                        "error_after": layer.evaluations[1]["error"],
                        "losses": [point["loss"] for point in layer.curve],
                        "seconds": sum(layer.seconds),
                    }
                    for layer in layers
                ],
            },
        }

    def _train(self, stream: Stream, number: int, targets: list[Tensor], adapted: dict[str, LoRALinear]) -> Progress:
        """Train the adapters of a decoder layer. Return the losses of the steps, as shares of the error before them,
        their speed, and the errors before and after them."""
        before = self._error(stream, number, targets)
        parameters = [matrix for layer in adapted.values() for matrix in (layer.lora_A, layer.lora_B)]
        steps = Steps(parameters, self.settings, "reconstruction.learning_rate", device_type=self.layered.device.type)
        progress = Progress.of(self.layered.dtype)
        numbers = {id(example): place for place, example in enumerate(self.examples)}

        def backward(batch: list[int], scale: float) -> dict[str, float]:
            # The error is 0 if the mask prunes nothing.
            loss = self._loss(stream, number, batch, targets) / (before or 1.0)
            (loss * scale).backward()
            return {"loss": loss.item()}

        # The batches are the same for every decoder layer.
        batches = shuffled(self.examples, self.settings.batch_size, self.settings.length_buckets, self.seed)
        for step, examples in enumerate(islice(batches, self.settings.steps), start=1):
            steps.take(step, partial(backward, [numbers[id(example)] for example in examples]), examples, progress)
        after = self._error(stream, number, targets, advance=True)
        progress.evaluations = [{"step": 0, "error": before}, {"step": self.settings.steps, "error": after}]
        what = f"decoder layer {number + 1} of {len(self.layered)}"
        print(f"{what}: error {before:.4g} before, and {after:.4g} after", file=sys.stderr)
        return progress

    def _loss(self, stream: Stream, number: int, batch: list[int], targets: list[Tensor]) -> Tensor:
        """Return the error of a decoder layer on some examples, with its gradient."""
        wanted = torch.cat([targets[example] for example in batch]).to(self.layered.device)
        return mse_loss(stream.outputs(number, batch).float(), wanted.float())

    @torch.no_grad()
    def _targets(self, stream: Stream, number: int) -> list[Tensor]:
        """Return the outputs (tokens, H) of a decoder layer by example."""
        targets: list[Tensor] = []
        for batch in self._batches():
            targets += stream.by_sequence(batch, stream.outputs(number, batch))
        return targets

    @torch.no_grad()
    def _error(self, stream: Stream, number: int, targets: list[Tensor], *, advance: bool = False) -> float:
        """Return the error of a decoder layer over all examples. With `advance`, its outputs enter the next one."""
        total = 0.0
        for batch in self._batches():
            outputs = stream.outputs(number, batch)
            wanted = torch.cat([targets[example] for example in batch]).to(self.layered.device)
            total += (outputs.float() - wanted.float()).square().sum(dtype=torch.float64).item()
            if advance:
                stream.advance(batch, outputs)
        return total / sum(target.numel() for target in targets)

    def _batches(self) -> list[list[int]]:
        """Return the numbers of all examples in batches."""
        size = self.settings.batch_size
        numbers = list(range(len(self.examples)))
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]

    def _resume(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Load the measurements of the saved state, and return its A and B by layer; empty if there is no state."""
        state = self.state.read("factors", "progress", "resumed_after")
        if state is None:
            return {}
        self.progress = [Progress(**layer) for layer in state["progress"]]
        self.resumed_after = [*state["resumed_after"], len(self.progress)]
        return state["factors"]

    def _save(self) -> None:
        """Save what is reconstructed so far."""
        self.progress[-1].peak_memory = self._peak_memory()
        progress = [vars(layer) for layer in self.progress]
        self.state.write({"factors": self.factors, "progress": progress, "resumed_after": self.resumed_after})

    def _peak_memory(self) -> int:
        """Return the peak memory of this process and of the earlier ones of this training, in bytes."""
        return max(peak_memory(self.layered.device), *(layer.peak_memory for layer in self.progress))
