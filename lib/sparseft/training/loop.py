"""Train a whole model, its adapters or its weights, in micro-batches.

The loss of a step is the mean over the answer tokens of its whole batch. In a distillation it is a weighted sum of two
means: the cross-entropy, and the divergence of the model from its teacher (study/schedule.py). A batch is divided into
micro-batches, and these are divided among the processes. The gradients are summed over all of them, so the loss is the
same for any division.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from tqdm import tqdm

from sparseft.language_model.batches import Batch, Example, collate, shuffled
from sparseft.language_model.hardware import peak_memory
from sparseft.language_model.loss import AnswerLoss, mean_answer_loss, teacher_logits
from sparseft.study.schedule import Training
from sparseft.training.steps import NOT_SAVED, Progress, SavedState, Steps, say_step, step_seed
from sparseft.training.trained_part import TrainedPart


@dataclass(frozen=True)
class Loop:
    """Hold a model and the part of it that is trained, and train that part."""

    # The model with its loss. With settings.shard_model its weights are divided among the processes.
    loss: AnswerLoss
    part: TrainedPart
    # The examples by split.
    data: dict[str, list[Example]]
    settings: Training
    seed: int
    accelerator: Accelerator
    evaluation_batch_size: int
    # That of this process, if each process has rows of its own.
    state: SavedState = NOT_SAVED
    # The dense model of a distillation. It is no part of `loss`, so that it is neither trained nor divided.
    teacher: nn.Module | None = None

    def fit(self) -> dict:
        """Train, and return the losses and the measured speed."""
        return self.run().record(self.settings.batch_size, self._peak_memory())

    def run(self) -> Progress:
        """Train until settings.steps steps are done, and return the progress. Continue from the saved state if there is
        one.

        Raises InputError if the loss or its gradient is not finite."""
        settings = self.settings
        sharing = self.accelerator if self.part.is_divided else None
        steps = Steps(self.part.parameters, settings, self.part.rate, sharing, self.accelerator.device.type)
        progress = self._resume(steps)
        done = len(progress.curve)
        batches = shuffled(self.data["train"], settings.batch_size, settings.length_buckets, self.seed)
        bar = tqdm(islice(batches, done, settings.steps), initial=done, total=settings.steps, desc="train")
        for step, batch in enumerate(bar, start=done + 1):
            self.loss.train()
            loss = steps.take(step, partial(self.backward, step, batch), batch, progress)
            if self.accelerator.is_main_process:
                say_step(step, settings.steps, loss)
            if settings.eval_every and step % settings.eval_every == 0:
                progress.evaluations.append({"step": step, "eval_loss": self.eval_loss()})
            if settings.save_every and step % settings.save_every == 0:
                self._save(steps, progress)
        return progress

    def eval_loss(self) -> float:
        """Return the evaluation loss of the model as it is, in nats per answer token."""
        self.loss.eval()
        size, accelerator = self.evaluation_batch_size, self.accelerator
        return mean_answer_loss(self.loss, self.data["validation"], size, accelerator.device, accelerator)

    def _peak_memory(self) -> int:
        """Return the largest peak memory of a process, in bytes. All processes must call this together."""
        peak = torch.tensor([peak_memory(self.accelerator.device)], device=self.accelerator.device)
        return int(self.accelerator.gather(peak).max())

    def backward(self, step: int, batch: list[Example], scale: float) -> dict[str, float]:
        """Compute the gradients of one step, times `scale`, in micro-batches, and sum them over the processes.

        Return its loss without the scale: the mean over the answer tokens of the whole batch. A distillation adds the
        parts."""
        torch.manual_seed(step_seed(self.seed, step, self.accelerator.process_index))
        size = self.settings.micro_batch_size
        accelerator = self.accelerator
        answer_tokens = sum(len(example.ids) - example.answer_start for example in batch)
        micro_batches = [batch[start : start + size] for start in range(0, len(batch), size)]
        own_micro_batches = micro_batches[accelerator.process_index :: accelerator.num_processes]
        distillation = self.settings.distillation
        factors = distillation.factors if distillation else (1.0,)
        means = torch.zeros(len(factors), device=accelerator.device)
        # FSDP2 takes the mean over the processes where they are summed.
        scale *= accelerator.num_processes if self.part.is_divided else 1
        # W' is the same in all micro-batches of a step.
        with self.part.caching() if self.settings.cache_weights else nullcontext():
            for micro_batch in own_micro_batches:
                parts = self._losses(collate(micro_batch).to(accelerator.device)) / answer_tokens
                loss = sum(factor * part for factor, part in zip(factors, parts, strict=True))
                (loss * scale).backward()
                means += parts.detach()
        self.part.take_gradients(accelerator)
        # tolist() waits for the device, so the measured time includes the gradients.
        parts = accelerator.reduce(means, "sum").tolist()
        loss = sum(factor * part for factor, part in zip(factors, parts, strict=True))
        return {"loss": loss} | (dict(zip(("cross_entropy", "divergence"), parts, strict=True)) if distillation else {})

    def _losses(self, batch: Batch) -> Tensor:
        """Return the sum of the losses over the answer tokens of a batch, (1,); (2,) for the two parts of a
        distillation."""
        distillation = self.settings.distillation
        taught = (teacher_logits(self.teacher, batch), distillation.temperature) if distillation else ()
        return torch.stack([part.sum() for part in torch.atleast_2d(self.loss(batch, *taught))])

    def _resume(self, steps: Steps) -> Progress:
        """Load the saved state and return its progress; return an empty progress if there is no state."""
        reads = self.accelerator.is_main_process or self.part.is_divided
        state = self.state.read("matrices", "optimizer", "schedule", "progress") if reads else None
        if self.part.is_divided:
            # A killed training may have left the rows of its processes after different steps.
            done = gather_object([len(state["progress"]["curve"]) if state else 0])
            state = state if len(set(done)) == 1 else None
        else:
            # The other processes get what the main process has read.
            (state,) = broadcast_object_list([state])
        if state is None:
            return Progress.of(self.loss.model.config.dtype)
        with torch.no_grad():
            for parameter, value in zip(self.part.parameters, state["matrices"], strict=True):
                parameter.copy_(value)
        steps.optimizer.load_state_dict(state["optimizer"])
        steps.schedule.load_state_dict(state["schedule"])
        progress = Progress(**state["progress"])
        progress.resumed_after.append(len(progress.curve))
        return progress

    def _save(self, steps: Steps, progress: Progress) -> None:
        """Save the state of the training after the last step. Only the main process writes a file, unless each has rows
        of its own."""
        progress.peak_memory = max(progress.peak_memory, self._peak_memory())
        if self.accelerator.is_main_process or self.part.is_divided:
            content = {
                "matrices": [parameter.detach() for parameter in self.part.parameters],
                "optimizer": steps.optimizer.state_dict(),
                "schedule": steps.schedule.state_dict(),
                "progress": vars(progress),
            }
            self.state.write(content)
