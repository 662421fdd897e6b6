"""Train a part of a model: from a batch to an update of the parameters, step by step.

The loss of a step is a mean over its whole batch. In a distillation it is a weighted sum of two means. A batch is
divided into micro-batches, and these are divided among the processes. The gradients are summed over all of them, so the
loss is the same for any division.

The optimizer is AdamW. The learning rate warms up from 0 on a line, and decays to 0 on a cosine or a line. Gradients
are clipped. Source: Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts. The rates are those of
transformers' get_cosine_schedule_with_warmup and get_linear_schedule_with_warmup, to the bit. The module of these
functions also imports PEFT if it is installed, which would make the start of every job twice as long.
"""

import math
import time
from collections.abc import Callable
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.hardware import peak_memory
from sparseft.training.progress import Progress, SavedState, check_finite, print_step, step_seed
from sparseft.training.settings import Training
from sparseft.training.trained_part import TrainedPart

# The scale at which the training of a float16 model starts, torch.amp.GradScaler's. Without one, small gradients would
# be 0.
FLOAT16_SCALE = 2.0**16


def train_part(
    part: TrainedPart,
    examples: list[Example],
    settings: Training,
    seed: int,
    accelerator: Accelerator,
    *,
    evaluate: Callable[[], float] | None = None,
    saved: SavedState = SavedState(),
) -> Progress:
    """Train until settings.steps steps are done, and return the progress. Continue from the saved state if there is
    one.

    evaluate: returns the evaluation loss, for settings.eval_every
    saved: that of this process, if each process has rows of its own

    Raises InputError if the loss or its gradient is not finite."""
    optimizer, schedule = optimizer_and_schedule(part.parameters, settings, accelerator.device)
    progress = _resume(part, optimizer, schedule, saved, accelerator)
    if not part.is_divided:
        # An expert to which no token is sent gets no gradient, so every parameter starts a step with one of zeros.
        for parameter in part.parameters:
            parameter.grad = torch.zeros_like(parameter)
    done = len(progress.curve)
    batches = islice(settings.batches(examples, seed), done, settings.steps)
    bar = tqdm(batches, initial=done, total=settings.steps, desc="train", disable=not part.shows_steps)
    for step, batch in enumerate(bar, start=done + 1):
        began = time.perf_counter()
        while True:
            torch.manual_seed(step_seed(seed, step, accelerator.process_index))
            terms, norm = _gradients(part, batch, settings.micro_batch_size, progress.loss_scale, accelerator)
            loss = part.weighted(terms)
            if progress.loss_scale == 1 or norm.isfinite() or not math.isfinite(loss):
                break
            # The scale made the gradients overflow. It is a power of two, so it rounds nothing.
            progress.loss_scale /= 2
            optimizer.zero_grad(set_to_none=part.is_divided)
        check_finite(step, loss, norm.item(), part.rate)
        nn.utils.clip_grads_with_norm_(part.parameters, settings.max_grad_norm, norm)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=part.is_divided)
        losses = {"loss": loss, **dict(zip(part.terms, terms, strict=True))}
        progress.add(step, losses, norm.item(), rate, sum(len(example.ids) for example in batch), began)
        if accelerator.is_main_process and part.shows_steps:
            print_step(step, settings.steps, loss)
        if evaluate and settings.eval_every and step % settings.eval_every == 0:
            progress.evaluations.append({"step": step, "eval_loss": evaluate()})
        if saved.path and settings.save_every and step % settings.save_every == 0:
            _note_memory(progress, accelerator)
            if accelerator.is_main_process or part.is_divided:
                content = {
                    "matrices": [parameter.detach() for parameter in part.parameters],
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "progress": vars(progress),
                }
                saved.write(content)
    _note_memory(progress, accelerator)
    return progress


def _gradients(
    part: TrainedPart, batch: list[Example], size: int, scale: float, accelerator: Accelerator
) -> tuple[list[float], Tensor]:
    """Give the parameters the gradients of the loss of a batch, in micro-batches of `size`. Return the terms of the
    loss, and the norm of the gradients.

    scale: what the loss is multiplied by before its gradients are computed, and these are divided by after"""
    process, processes = accelerator.process_index, accelerator.num_processes
    micro_batches = [batch[start : start + size] for start in range(0, len(batch), size)]
    # FSDP2 takes the mean over the processes where they are summed.
    factor = scale * processes if part.is_divided else scale
    sums = torch.zeros(len(part.terms), device=accelerator.device)
    with part.caching():
        for micro_batch in micro_batches[process::processes]:
            shares = part.losses(micro_batch, batch)
            (part.weighted(shares) * factor).backward()
            sums += shares.detach()
    part.take_gradients(accelerator)
    # tolist() waits for the device, so the measured time includes the gradients.
    terms = accelerator.reduce(sums, "sum").tolist()
    gradients = [parameter.grad for parameter in part.parameters]
    if scale > 1:
        torch._foreach_div_(gradients, scale)
    norm = nn.utils.get_total_norm(gradients)
    if part.is_divided:
        norm = accelerator.reduce(norm**2, "sum").sqrt()
    return terms, norm


def optimizer_and_schedule(
    parameters: list[nn.Parameter], settings: Training, device: torch.device
) -> tuple[AdamW, LambdaLR]:
    """Return AdamW of the parameters, whose gradients are computed on the device, and its learning rates."""
    # With a GPU it takes one pass, and no copy of the moments, also for weights in the machine's memory.
    fused = device.type == "cuda"
    optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)
    warmup = settings.steps_to_peak
    decay = max(1, settings.steps - warmup)

    def share_of_peak(step: int) -> float:
        if step < warmup:
            return step / warmup
        if settings.lr_scheduler_type == "linear":
            return max(0.0, (settings.steps - step) / decay)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / decay))))

    return optimizer, LambdaLR(optimizer, share_of_peak)


def _resume(
    part: TrainedPart, optimizer: AdamW, schedule: LambdaLR, saved: SavedState, accelerator: Accelerator
) -> Progress:
    """Load the saved state from which all processes continue, and return its progress. Return an empty progress
    without a state."""
    reads = accelerator.is_main_process or part.is_divided
    state = saved.read("matrices", "optimizer", "schedule", "progress") if reads else None
    if part.is_divided:
        # A killed training may have left the rows of its processes after different steps.
        done = gather_object([len(state["progress"]["curve"]) if state else 0])
        state = state if len(set(done)) == 1 else None
    else:
        # The other processes get what the main process has read.
        (state,) = broadcast_object_list([state])
    if state is None:
        return Progress(loss_scale=FLOAT16_SCALE if part.dtype == torch.float16 else 1.0)
    with torch.no_grad():
        for parameter, value in zip(part.parameters, state["matrices"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    progress = Progress(**state["progress"])
    progress.resumed_after.append(len(progress.curve))
    return progress


def _note_memory(progress: Progress, accelerator: Accelerator) -> None:
    """Note the largest peak memory of a process. All processes call this together."""
    peak = torch.tensor([peak_memory(accelerator.device)], device=accelerator.device)
    progress.peak_memory = max(progress.peak_memory, int(accelerator.gather(peak).max()))
