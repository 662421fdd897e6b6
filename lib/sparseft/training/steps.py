"""Clip and update in the steps of a training, collect what they measure, and save the training's state.

A killed run continues from the state to the same bits. The state is no output of any rule.

The optimizer is AdamW. The learning rate warms up from 0 on a line, and decays to 0 on a cosine or a line. Gradients
are clipped. Source: Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts. The rates are those of
transformers' get_cosine_schedule_with_warmup and get_linear_schedule_with_warmup, to the bit. The module of these
functions also imports PEFT if it is installed, which would make the start of every job twice as long.
"""

import math
import random
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.records.training_record import final_loss
from sparseft.storage.atomic import atomic_file
from sparseft.study.schedule import Training

# The scale at which the training of a float16 model starts, torch.amp.GradScaler's.
FLOAT16_SCALE = 2.0**16
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
    # Bytes, over the processes before this one.
    peak_memory: int = 0
    # What the loss is multiplied by before its gradients are computed, and these are divided by after.
    loss_scale: float = 1.0

    @classmethod
    def of(cls, dtype: torch.dtype) -> Self:
        """Return an empty progress of a model of this dtype. In float16, small gradients would be 0 without a scale."""
        return cls(loss_scale=FLOAT16_SCALE if dtype == torch.float16 else 1.0)

    def add(self, step: int, losses: dict[str, float], norm: float, rate: float, tokens: int, start: float) -> None:
        """Add the measurements of a step that began at `start`, a time of time.perf_counter."""
        self.curve.append({"step": step, **losses, "gradient_norm": norm, "learning_rate": rate})
        self.seconds.append(time.perf_counter() - start)
        self.tokens.append(tokens)

    def record(self, batch_size: int, peak_memory: int) -> dict:
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


class Steps:
    """Hold the optimizer of some parameters with its schedule. A training computes their gradients, clips them, and
    updates."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        settings: Training,
        key: str = "training.learning_rate",
        sharing: Accelerator | None = None,
        device_type: str = "cpu",
    ) -> None:
        """`key` is what the user may lower if the loss is not finite. `sharing` is given if each process has parameters
        of its own, which get new gradients in every step. `device_type` is where gradients are computed."""
        self.parameters = parameters
        self.sharing = sharing
        # An expert to which no token is sent gets no gradient. So every parameter starts a step with one of zeros.
        for parameter in () if sharing else parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.settings = settings
        self.key = key
        # With a GPU it takes one pass, and no copy of the moments, also for weights in the machine's memory.
        fused = device_type == "cuda"
        self.optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)
        self.schedule = LambdaLR(self.optimizer, self._share_of_peak)

    def take(
        self, step: int, backward: Callable[[float], dict[str, float]], batch: list[Example], progress: Progress
    ) -> float:
        """Take a step, add it to the progress, and return its loss.

        backward(scale) computes the gradients of the loss times `scale`, and returns the losses without it, by name."""
        start = time.perf_counter()
        norm = None
        while norm is None:
            losses = backward(progress.loss_scale)
            norm = self.clip(step, losses["loss"], progress)
        progress.add(step, losses, norm, self.update(), sum(len(example.ids) for example in batch), start)
        return losses["loss"]

    def clip(self, step: int, loss: float, progress: Progress) -> float | None:
        """Divide the gradients by the scale of their loss, clip them, and return their norm before the clipping.

        Return None if the scale made them overflow: they must be computed again, with half the scale. It is a power of
        two, so it rounds nothing. Raises InputError if the loss, given without the scale, or its gradient is not
        finite."""
        scale = progress.loss_scale
        if scale > 1:
            torch._foreach_div_([parameter.grad for parameter in self.parameters], scale)
        # Not imported at the top, because cerebras-pytorch requires torch 2.4, which does not have them.
        total = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters])
        if self.sharing:
            total = self.sharing.reduce(total**2, "sum").sqrt()
        nn.utils.clip_grads_with_norm_(self.parameters, self.settings.max_grad_norm, total)
        norm = total.item()
        if scale > 1 and math.isfinite(loss) and not math.isfinite(norm):
            progress.loss_scale = scale / 2
            self.optimizer.zero_grad(set_to_none=bool(self.sharing))
            return None
        check_finite(step, loss, norm, self.key)
        return norm

    def update(self) -> float:
        """Update the parameters, clear their gradients for the next step, and return the learning rate of this one."""
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=bool(self.sharing))
        return rate

    def _share_of_peak(self, step: int) -> float:
        """Return the learning rate of a step, from 0 on, as a share of its peak."""
        warmup = self.settings.steps_to_peak
        if step < warmup:
            return step / warmup
        decay = max(1, self.settings.steps - warmup)
        if self.settings.lr_scheduler_type == "linear":
            return max(0.0, (self.settings.steps - step) / decay)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / decay))))


def say_step(step: int, steps: int, loss: float) -> None:
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


NOT_SAVED = SavedState()
