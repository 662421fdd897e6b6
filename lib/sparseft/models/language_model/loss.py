"""Compute the answer loss: the cross-entropy of the answer tokens, in nats. A distillation adds the divergence from a
teacher.

lm_head runs only on the positions of the answers. This saves a row of logits, as long as the vocabulary, for every
prompt token. The logits of the answers exist only once. torch's cross-entropy makes three copies of them, and takes 1.5
times as long.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.modeling_outputs import MoeModelOutputWithPast

from sparseft.common.errors import InputError
from sparseft.models.language_model.batches import Batch, Example, collate
from sparseft.models.language_model.model import computed_by

# A batch -> -log p of its answer tokens, fp32 (N,).
Loss = Callable[[Batch], Tensor]
# The number of rows of logits that are in fp32 at once, by device. A GPU needs many to fill it. On a CPU they stay in
# its cache.
ROWS = {"cpu": 16, "cuda": 512}
# The number of rows of logits that exist at once in an evaluation. On a CPU all do, because a product rounds by its
# rows.
EVALUATED_ROWS = {"cpu": 1 << 62, "cuda": 1 << 13}
# The same for a text, of whose window every token but the first is predicted. 131,072 tokens of Llama-3.1 have 34 GB of
# logits.
TEXT_ROWS = {"cpu": 1 << 13, "cuda": 1 << 12}


class CrossEntropyFunction(torch.autograd.Function):
    """Compute -log softmax(s)[target], fp32 (N,), from logits s (N, V) and targets int64 (N,).

    With the logits t (N, V) of a teacher, compute also KL(p || q) in nats, p = softmax(t / T), q = softmax(s / T), with
    the temperature T: fp32 (2, N). Its derivative by s is (q - p) / T.

    The backward overwrites s with its gradient, softmax - one-hot of the losses, as Liger Kernel does (arXiv
    2410.10989, section 3.2). So nothing else may use s, and the backward must run only once."""

    @staticmethod
    def forward(ctx, logits, targets, of_teacher=None, temperature=1.0):
        """Return the losses, and the divergences if there is a teacher."""
        number = ROWS[logits.device.type]
        # The logarithm of softmax's denominator, (N,).
        log_sums = torch.cat([rows.float().logsumexp(1) for rows in logits.split(number)])
        ctx.kept = logits, targets, log_sums, of_teacher
        ctx.temperature = temperature
        losses = log_sums - logits.gather(1, targets[:, None])[:, 0].float()
        if of_teacher is None:
            return losses
        divergences = []
        for blocks in zip(logits.split(number), of_teacher.split(number), strict=True):
            log_q, log_p = (rows.float().div(temperature).log_softmax(1) for rows in blocks)
            by_token = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
            # Only by rounding, a divergence is below 0.
            divergences.append(by_token.clamp_(min=0))
        return torch.stack([losses, torch.cat(divergences)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient of s, (N, V), in its memory. `grad` is that of the result."""
        logits, targets, log_sums, of_teacher = ctx.kept
        # The context must not keep the logits alive.
        ctx.kept = None
        taught = (grad,) if of_teacher is None else (*grad, of_teacher)
        by_token = (logits, targets, log_sums, *taught)
        for rows, *others in zip(*(tensor.split(ROWS[logits.device.type]) for tensor in by_token), strict=True):
            rows.copy_(_gradient(ctx.temperature, rows, *others))
        return logits, None, None, None


def _gradient(
    temperature: float, rows: Tensor, targets: Tensor, log_sums: Tensor, of_losses: Tensor, *taught: Tensor
) -> Tensor:
    """Return the gradient of some rows of logits, fp32 (n, V). It overwrites logits in fp32.

    `taught` is the gradient of the divergences, (n,), and the rows of the teacher, if there is one."""
    if taught:
        of_divergences, of_teacher = taught
        q, p = (of_model.float().div(temperature).softmax(1) for of_model in (rows, of_teacher))
        change = q.sub_(p).mul_(of_divergences[:, None] / temperature)
    gradient = rows.float().sub_(log_sums[:, None]).exp_()
    # An index_put would wait for the GPU to check its indices: in deterministic mode it sorts them.
    gradient.scatter_(1, targets[:, None], -1, reduce="add").mul_(of_losses[:, None])
    return gradient.add_(change) if taught else gradient


def logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return the logits (B, T, V) of the hidden states (B, T, H), as the model's own forward computes them.

    So whatever a class does with the output of lm_head is done: Granite scales it, and Gemma caps it."""
    with computed_by(lambda **_: MoeModelOutputWithPast(last_hidden_state=hidden), [model.get_decoder()]):
        return model(use_cache=False).logits


def logits_by_rows(model: nn.Module, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens (n,) after the first one of a window `ids` (T,), and the logits (n, V) that predict them, some
    rows at a time."""
    hidden = model.get_decoder()(input_ids=ids[None], use_cache=False).last_hidden_state
    rows = TEXT_ROWS[ids.device.type]
    for targets, states in zip(ids[1:].split(rows), hidden.split(rows, 1), strict=False):
        yield targets, logits(model, states)[0, : len(targets)]


def answer_states(model: nn.Module, batch: Batch) -> Tensor:
    """Return the last hidden states (N, H) of a batch, from which the model predicts the answer tokens."""
    # (B, T, H)
    hidden = model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[batch.positions]


@torch.no_grad()
def teacher_logits(teacher: nn.Module, batch: Batch) -> Tensor:
    """Return the logits (N, V) with which a teacher predicts the answer tokens of a batch, in its dtype and without a
    gradient."""
    return logits(teacher, answer_states(teacher, batch)[None])[0]


class AnswerLoss(nn.Module):
    """Compute a language model's loss on a batch. It is a module, so that FSDP can wrap it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, of_teacher: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return -log p(token) of the batch's answer tokens, fp32 (N,).

        of_teacher: logits (N, V) of `teacher_logits`; with them, the result has the divergences too, fp32 (2, N)"""
        # (N, H)
        of_answers = answer_states(self.model, batch)
        if torch.is_grad_enabled() or of_teacher is not None:
            return self._losses(of_answers, batch.targets, of_teacher, temperature)
        rows = EVALUATED_ROWS[of_answers.device.type]
        parts = zip(of_answers.split(rows), batch.targets.split(rows), strict=True)
        return torch.cat([self._losses(*part) for part in parts])

    def _losses(
        self, hidden: Tensor, targets: Tensor, of_teacher: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Return what CrossEntropyFunction computes of the positions with the hidden states (N, H)."""
        # Not [0], because the backward of an index copies the gradient.
        of_model = logits(self.model, hidden[None]).flatten(0, 1)
        return CrossEntropyFunction.apply(of_model, targets, of_teacher, temperature)


@torch.no_grad()
def answer_losses(
    loss: Loss, examples: list[Example], batch_size: int, device: torch.device, accelerator: Accelerator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each example's answer, in nats, float64 (N,), and its number of answer tokens, int64 (N,).

    The batch that needs most memory comes first. The processes of an `accelerator` divide the batches, which are those
    of one process, and all of them return the same losses. The order of the results is that of `examples`. Raises
    InputError if a loss is not finite."""
    sums = np.zeros(len(examples))
    tokens = np.array([len(example.ids) - example.answer_start for example in examples])
    batches = evaluation_batches(examples, batch_size)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    for number in range(process, len(batches) + -len(batches) % processes, processes):
        # A process without a batch repeats the first one, because divided weights are gathered from all processes.
        indices = batches[number % len(batches)]
        by_token = loss(collate([examples[index] for index in indices]).to(device)).cpu().double().numpy()
        if number < len(batches):
            sums[indices] = np.add.reduceat(by_token, np.cumsum(tokens[indices]) - tokens[indices])
    if accelerator and processes > 1:
        sums = accelerator.reduce(torch.from_numpy(sums).to(device), "sum").cpu().numpy()
    check_finite_evaluation(sums.sum())
    return sums, tokens


def evaluation_batches(examples: list[Example], batch_size: int) -> list[list[int]]:
    """Return the indices of the examples in batches of similar lengths. The batch with the most tokens comes first."""
    lengths = [len(example.ids) for example in examples]
    by_length = sorted(range(len(examples)), key=lengths.__getitem__)
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    return sorted(batches, key=lambda batch: -len(batch) * lengths[batch[-1]])


def mean_answer_loss(
    loss: Loss, examples: list[Example], batch_size: int, device: torch.device, accelerator: Accelerator | None = None
) -> float:
    """Return the mean loss over all answer tokens of `examples`, in nats, as `answer_losses` computes it."""
    sums, tokens = answer_losses(loss, examples, batch_size, device, accelerator)
    return float(sums.sum() / tokens.sum())


def check_finite_evaluation(loss: float) -> None:
    """Raise InputError if the loss of an evaluation, a mean or a sum, is not finite."""
    if not math.isfinite(loss):
        raise InputError(f"the evaluation loss is {loss}", "lower training.learning_rate, or check the model's weights")
