"""The training loop: AdamW, warm-up and cosine tied to the number of steps, clipping, accumulation.

A step's loss is the mean over the answer tokens of its whole batch, however many micro-batches and processes share it:
every process takes its micro-batches of every batch, and the gradients are summed over the processes.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from sparseft.language_model.batches import Example, collate, shuffled
from sparseft.language_model.hardware import peak_memory
from sparseft.language_model.loss import AnswerLoss, mean_answer_loss
from sparseft.lora.masked_lora import LoRALinear, whole
from sparseft.study.config import Training
from sparseft.training.progress import Progress, check_finite, say_step, step_seed
from sparseft.training.state import read_state, write_state


@dataclass(frozen=True)
class Loop:
    """A model whose adapters are trained; `layers` are its LoRA layers by name, `data` the examples by split.

    With settings.shard_model `loss` was divided among the processes, and its gradients are summed in the backward.
    `state`: where a killed training goes on from, and `identity`, what it must agree in; no file for None."""

    loss: AnswerLoss
    layers: dict[str, LoRALinear]
    data: dict[str, list[Example]]
    settings: Training
    seed: int
    accelerator: Accelerator
    evaluation_batch_size: int
    state: Path | None = None
    identity: str = ""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [matrix for layer in self.layers.values() for matrix in (layer.lora_A, layer.lora_B)]

    def fit(self) -> dict:
        """Train, and return the losses, the number of updates and the measured speed."""
        progress = self.run()
        record = progress.record(self.settings.batch_size, peak_memory(self.accelerator.device))
        return record | {"updates": progress.updates}

    def run(self) -> Progress:
        """Train for settings.steps steps.

        Raises InputError when the loss or its gradient is no longer finite."""
        settings = self.settings
        optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = get_cosine_schedule_with_warmup(optimizer, settings.steps_to_peak, settings.steps)
        progress = self._resume(optimizer, schedule)
        done = len(progress.curve)
        batches = islice(shuffled(self.data["train"], settings, self.seed), done, settings.steps)
        bar = tqdm(batches, initial=done, total=settings.steps, desc="train", disable=None)
        for step, batch in enumerate(bar, start=done + 1):
            self._step(step, batch, optimizer, schedule, progress)
            if settings.eval_every and step % settings.eval_every == 0:
                progress.evaluations.append({"step": step, "eval_loss": self.eval_loss()})
            if self.state and settings.save_every and step % settings.save_every == 0:
                self._save(optimizer, schedule, progress)
        return progress

    def eval_loss(self) -> float:
        """The evaluation loss of the model as it is, nats per answer token."""
        self.loss.eval()
        return mean_answer_loss(self.loss, self.data["validation"], self.evaluation_batch_size, self.accelerator.device)

    def _step(
        self, step: int, batch: list[Example], optimizer: Optimizer, schedule: LRScheduler, progress: Progress
    ) -> None:
        begin, rate = time.perf_counter(), schedule.get_last_lr()[0]
        torch.manual_seed(step_seed(self.seed, step, self.accelerator.process_index))
        self.loss.train()
        loss = self._accumulate(batch)
        norm = whole(self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)).item()
        check_finite(step, loss, norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.curve.append({"step": step, "loss": loss, "gradient_norm": norm, "learning_rate": rate})
        progress.seconds.append(time.perf_counter() - begin)
        progress.tokens.append(sum(len(example.ids) for example in batch))
        if self.accelerator.is_main_process:
            say_step(step, self.settings.steps, loss)

    def _accumulate(self, batch: list[Example]) -> float:
        """Gradients of one optimiser step; returns its mean loss."""
        settings, accelerator = self.settings, self.accelerator
        answers = sum(len(example.ids) - example.answer_start for example in batch)
        averaged = accelerator.num_processes if settings.shard_model else 1  # what divides a model means its gradients
        parts = [
            batch[start : start + settings.micro_batch_size]
            for start in range(0, len(batch), settings.micro_batch_size)
        ]
        loss = torch.zeros((), device=accelerator.device)
        with self._weights_cached():
            for part in parts[accelerator.process_index :: accelerator.num_processes]:
                part_loss = self.loss(collate(part).to(accelerator.device)).sum() / answers
                (part_loss * averaged).backward()
                loss += part_loss.detach()
        if accelerator.num_processes > 1 and not settings.shard_model:
            self._sum_gradients()
        return accelerator.reduce(loss, "sum").item()  # waits for the device: the step's time is whole

    def _weights_cached(self):
        """W' is the same in all micro-batches of a step."""
        layer = next(iter(self.layers.values()))
        return layer.workspace.caching() if self.settings.cache_weights else nullcontext()

    def _sum_gradients(self) -> None:
        """Over the processes, in one message: adapters are small."""
        gradients = [parameter.grad for parameter in self.parameters]
        total = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _resume(self, optimizer: Optimizer, schedule: LRScheduler) -> Progress:
        found = read_state(self.state, self.identity) if self.state else None
        if found is None:
            return Progress()
        with torch.no_grad():
            for parameter, value in zip(self.parameters, found["matrices"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(found["optimizer"])
        schedule.load_state_dict(found["schedule"])
        progress = Progress(**found["progress"])
        progress.resumed_after.append(len(progress.curve))
        return progress

    def _save(self, optimizer: Optimizer, schedule: LRScheduler, progress: Progress) -> None:
        progress.peak_memory = max(progress.peak_memory, peak_memory(self.accelerator.device))
        if self.accelerator.is_main_process:
            matrices: list[Tensor] = [parameter.detach() for parameter in self.parameters]
            write_state(self.state, self.identity, {
                "matrices": matrices, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                "progress": vars(progress),
            })  # fmt: skip
