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

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import mse_loss

from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.layered_model import Stream
from sparseft.training.loop import train_part
from sparseft.training.progress import Progress
from sparseft.training.settings import Training
from sparseft.training.trained_part import TrainedPart


class LayerPart(TrainedPart):
    """Hold the adapters of a decoder layer, which learn its dense outputs."""

    rate = "reconstruction.learning_rate"
    shows_steps = False

    def __init__(self, stream: Stream, number: int, examples: list[Example], batch_size: int) -> None:
        """Compute the outputs of the dense layer for all examples, in batches."""
        self.stream = stream
        self.number = number
        self.dtype = stream.model.dtype
        self.examples = examples
        self.places = {id(example): place for place, example in enumerate(examples)}
        numbers = list(range(len(examples)))
        self.batches = [numbers[start : start + batch_size] for start in numbers[::batch_size]]
        # By example, (tokens, H).
        self.targets: list[Tensor] = []
        with torch.no_grad():
            for batch in self.batches:
                self.targets += stream.by_sequence(batch, stream.outputs(number, batch))

    def train(self, settings: Training, seed: int, accelerator: Accelerator) -> Progress:
        """Train the adapters. Return the losses of the steps, as shares of the error before them, their speed, and the
        errors before and after them. The outputs enter the next decoder layer."""
        self.before = self.error()
        # The draws of the next decoder layer's A do not depend on the seeds of these steps.
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            # The batches are the same for every decoder layer.
            progress = train_part(self, self.examples, settings, seed, accelerator)
        after = self.error(advance=True)
        progress.evaluations = [{"step": 0, "error": self.before}, {"step": settings.steps, "error": after}]
        what = f"decoder layer {self.number + 1} of {len(self.stream.model.model.layers)}"
        print(f"{what}: error {self.before:.4g} before, and {after:.4g} after", file=sys.stderr)
        return progress

    def losses(self, micro_batch: list[Example], batch: list[Example]) -> Tensor:
        """Return the error on a batch, which is one micro-batch, as a share of the error before the training."""
        places = [self.places[id(example)] for example in micro_batch]
        outputs = self.stream.outputs(self.number, places)
        # The error is 0 if the mask prunes nothing.
        return mse_loss(outputs.float(), self._targets_of(places))[None] / (self.before or 1.0)

    @torch.no_grad()
    def error(self, *, advance: bool = False) -> float:
        """Return the error over all examples. With `advance`, the outputs enter the next decoder layer."""
        total = 0.0
        for batch in self.batches:
            outputs = self.stream.outputs(self.number, batch)
            total += (outputs.float() - self._targets_of(batch)).square().sum(dtype=torch.float64).item()
            if advance:
                self.stream.advance(batch, outputs)
        return total / sum(target.numel() for target in self.targets)

    def _targets_of(self, places: list[int]) -> Tensor:
        """Return the dense outputs of some examples, fp32, on the device."""
        return torch.cat([self.targets[place] for place in places]).to(self.stream.device).float()


def sum_of(layers: list[Progress]) -> Progress:
    """Return the progress of all decoder layers.

    A step of it is that step of every decoder layer. Its loss is their mean, and its seconds are their sum."""
    progress = Progress(tokens=layers[0].tokens, peak_memory=max(layer.peak_memory for layer in layers))
    progress.seconds = [sum(seconds) for seconds in zip(*(layer.seconds for layer in layers), strict=True)]
    for points in zip(*(layer.curve for layer in layers), strict=True):
        loss = sum(point["loss"] for point in points) / len(points)
        norm = math.hypot(*(point["gradient_norm"] for point in points))
        progress.curve.append({**points[0], "loss": loss, "gradient_norm": norm})
    return progress
