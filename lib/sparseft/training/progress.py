"""Collect what a training measures, and save its state.

A killed run continues from the state to the same bits. The state is no output of any rule.
"""

import math
import random
import statistics
import sys
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparseft.common.errors import InputError
from sparseft.storage.atomic import atomic_file
from sparseft.training.training_record import final_loss

# Steps before the speed is steady, while allocators and caches fill.
BURN_IN = 3


@dataclass
class Progress:
    """Hold what a training has measured so far: one value per step, and one per evaluation."""

    # Per step: its number, its losses by name, gradient norm and learning rate.
    curve: list[dict] = field(default_factory=list)
    # Per evaluation: the step that it came after, and the evaluation loss.
    evaluations: list[dict] = field(default_factory=list)
    # Per step: the seconds that it took.
    seconds: list[float] = field(default_factory=list)
    # Per step: its tokens without padding.
    tokens: list[int] = field(default_factory=list)
    # The numbers of the steps after which a killed training was resumed.
    resumed_after: list[int] = field(default_factory=list)
    # Bytes, of the largest process.
    peak_memory: int = 0
    # What the loss is multiplied by before its gradients are computed, and these are divided by after.
    loss_scale: float = 1.0

    def add(self, step: int, losses: dict[str, float], norm: float, rate: float, tokens: int, start: float) -> None:
        """Add the measurements of a step that began at `start`, a time of time.perf_counter."""
        self.curve.append({"step": step, **losses, "gradient_norm": norm, "learning_rate": rate})
        self.seconds.append(time.perf_counter() - start)
        self.tokens.append(tokens)

    def record(self, batch_size: int, peak_memory: int = 0) -> dict:
        """Return the measured part of train.json. The speed is the median over the steady steps, and also over all
        steps."""
        steady = slice(BURN_IN, None) if len(self.seconds) > 2 * BURN_IN else slice(None)
        seconds = self.seconds[steady]
        tokens = self.tokens[steady]
        total = sum(self.seconds)
        return {
            "loss_curve": self.curve,
            "eval_curve": self.evaluations,
            "final_loss": final_loss([point["loss"] for point in self.curve]),
            "tokens": sum(self.tokens),
            "samples_per_second": batch_size / statistics.median(seconds),
            "tokens_per_second": statistics.median(n / time for n, time in zip(tokens, seconds, strict=True)),
            "samples_per_second_overall": batch_size * len(self.seconds) / total,
            "tokens_per_second_overall": sum(self.tokens) / total,
            "train_seconds": total,
            "resumed_after_steps": self.resumed_after,
            "peak_memory_bytes": max(self.peak_memory, peak_memory),
        }


def print_step(step: int, steps: int, loss: float) -> None:
    """Print a line on stderr at every tenth of the steps, if stderr is no terminal. There, a progress bar shows it."""
    if not sys.stderr.isatty() and step % max(1, steps // 10) == 0:
        print(f"step {step} of {steps}: loss {loss:.4f}", file=sys.stderr)


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """Return the dropout seed of a step. A resumed training gets the same one."""
    return random.Random(f"seed {seed}, step {step}, process {process}").getrandbits(63)


def check_finite(step: int, loss: float, norm: float, key: str = "training.learning_rate") -> None:
    """Raise InputError if a step's loss or the norm of its gradient is not finite. `key` is what the user may lower.

    With an infinite norm, clipping would set every gradient to 0."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise InputError(f"the loss is {loss} and its gradient's norm {norm} at step {step}", f"lower {key}")


@dataclass(frozen=True)
class SavedState:
    """Hold the file from which a killed training continues, or None to save nothing.

    `identity` is the digest of `TrainingJob.identity`. A saved state with another one is not used."""

    path: Path | None = None
    identity: str = ""

    def write(self, content: dict) -> None:
        """Replace the saved state. `content` holds only tensors, numbers and text, so that `weights_only` reads it."""
        if not self.path:
            return
        # An open file says why it cannot be written. torch writes one tensor after the other to it.
        with atomic_file(self.path) as temporary, temporary.open("wb") as file:
            torch.save({"identity": self.identity, **content}, file)

    def read(self, *keys: str) -> dict | None:
        """Return the `keys` of the saved state, mapped from its file. Return None if there is none that this training
        can continue.

        A state that is damaged or of another training is reported on stderr. Raises OSError if the file cannot be
        read."""
        if not self.path or not self.path.exists():
            return None
        reason = "damaged"
        # A parser may raise anything for bytes that are not a saved state.
        with self.path.open("rb") as file, suppress(Exception):
            # torch checks no checksums, and would take a flipped bit for a weight.
            if zipfile.ZipFile(file).testzip() is None:
                state = torch.load(self.path, weights_only=True, map_location="cpu", mmap=True)
                if state["identity"] == self.identity:
                    return {key: state[key] for key in keys}
                reason = "of other code, inputs or settings"
        print(f"{self.path} is {reason}: the training starts from its beginning", file=sys.stderr)
        return None
