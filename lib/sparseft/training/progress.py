"""What a training measures, whatever the backend."""

import math
import random
import statistics
import sys
from dataclasses import dataclass, field

from sparseft.errors import InputError

BURN_IN = 3  # steps before the steady state: allocators and caches fill


@dataclass
class Progress:
    """What a training has measured so far: a row per step, and one per evaluation."""

    curve: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    resumed_after: list[int] = field(default_factory=list)
    peak_memory: int = 0  # bytes, of the processes before this one

    @property
    def updates(self) -> int:
        """Return how many steps had a learning rate above 0; a step at 0 changes no parameter."""
        return sum(point["learning_rate"] > 0 for point in self.curve)

    def record(self, batch_size: int, peak_memory: int) -> dict:
        """train.json's measured part: medians over the steady steps, in seconds; tokens without padding."""
        last = self.curve[-max(1, len(self.curve) // 10) :]
        steady = slice(BURN_IN, None) if len(self.seconds) > 2 * BURN_IN else slice(None)
        seconds, tokens = self.seconds[steady], self.tokens[steady]
        total = sum(self.seconds)
        return {
            "loss_curve": self.curve,
            "eval_curve": self.evaluations,
            "final_loss": statistics.fmean(point["loss"] for point in last),
            "samples_per_second": batch_size / statistics.median(seconds),
            "tokens_per_second": statistics.median(n / time for n, time in zip(tokens, seconds, strict=True)),
            "samples_per_second_overall": batch_size * len(self.seconds) / total,
            "tokens_per_second_overall": sum(self.tokens) / total,
            "train_seconds": total,
            "resumed_after_steps": self.resumed_after,
            "peak_memory_bytes": max(self.peak_memory, peak_memory),
        }


def say_step(step: int, steps: int, loss: float) -> None:
    """A line on stderr at every tenth of the steps, where no progress bar says it."""
    if not sys.stderr.isatty() and step % max(1, steps // 10) == 0:
        print(f"step {step} of {steps}: loss {loss:.4f}", file=sys.stderr)


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """Of the dropout of a step: a resumed training draws the same."""
    return random.Random(f"seed {seed}, step {step}, process {process}").getrandbits(63)


def check_finite(step: int, loss: float, norm: float) -> None:
    """Raises InputError where a step's loss or its gradient's norm is not finite.

    A norm that overflows would clip every gradient to 0."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise InputError(f"the loss is {loss}, its gradient {norm} at step {step}", "lower training.learning_rate")
