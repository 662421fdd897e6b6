"""The training loop: AdamW, warm-up and cosine tied to the number of steps, clipping, accumulation."""

import math
import statistics
import sys
import time
from collections.abc import Iterator

import torch
from torch import nn
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from sparseft.config import Training
from sparseft.errors import InputError
from sparseft.training.batches import Example, collate
from sparseft.training.loss import answer_loss_sum

BURN_IN = 3  # steps before the steady state: allocators and caches fill


def fit(
    model: nn.Module,
    parameters: list[nn.Parameter],
    batches: Iterator[list[Example]],
    settings: Training,
    device: torch.device,
) -> dict:
    """Train `parameters` for settings.steps steps; returns loss_curve, final_loss and the measured speed.

    A step's loss is the mean over the answer tokens of its whole batch, whatever the micro-batch size.
    Raises InputError when the loss or its gradient is no longer finite."""
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = round(settings.warmup_fraction * settings.steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, settings.steps)
    curve, seconds, tokens = [], [], []
    model.train()
    for step, batch in enumerate(tqdm(batches, total=settings.steps, desc="train"), start=1):
        begin = time.perf_counter()
        rate = schedule.get_last_lr()[0]
        loss, count = _accumulate(model, batch, settings.micro_batch_size, device)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).item()
        if not math.isfinite(loss) or not math.isfinite(norm):  # a norm that overflows would clip every gradient to 0
            raise InputError(f"the loss is {loss}, its gradient {norm} at step {step}", "lower training.learning_rate")
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        curve.append({"step": step, "loss": loss, "learning_rate": rate})
        if not sys.stderr.isatty() and step % max(1, settings.steps // 10) == 0:  # there the bar says it
            print(f"step {step} of {settings.steps}: loss {loss:.4f}", file=sys.stderr)
        seconds.append(time.perf_counter() - begin)
        tokens.append(count)
    model.eval()
    return {"loss_curve": curve, **_final_loss(curve), **_speed(seconds, tokens, settings.batch_size)}


def _accumulate(model: nn.Module, batch: list[Example], micro: int, device: torch.device) -> tuple[float, int]:
    """Gradients of one optimiser step; returns its mean loss and the tokens it read."""
    answers = sum(len(example.ids) - example.answer_start for example in batch)
    loss, tokens = 0.0, 0
    for start in range(0, len(batch), micro):
        part = collate(batch[start : start + micro]).to(device)
        part_loss = answer_loss_sum(model, part) / answers
        part_loss.backward()
        loss += part_loss.item()  # waits for the device: the step's time is whole
        tokens += part.tokens
    return loss, tokens


def _final_loss(curve: list[dict]) -> dict:
    last = curve[-max(1, len(curve) // 10) :]
    return {"final_loss": statistics.fmean(point["loss"] for point in last)}


def _speed(seconds: list[float], tokens: list[int], batch_size: int) -> dict:
    """Medians over the steady steps; tokens without padding."""
    steady = slice(BURN_IN, None) if len(seconds) > 2 * BURN_IN else slice(None)
    pairs = list(zip(seconds[steady], tokens[steady], strict=True))
    return {
        "samples_per_second": batch_size / statistics.median(time for time, _ in pairs),
        "tokens_per_second": statistics.median(count / time for time, count in pairs),
        "train_seconds": sum(seconds),
    }
