"""Compute the answer loss: the cross-entropy of the answer tokens, in nats. A distillation adds the divergence from a teacher.

lm_head runs only on the positions of the answers. This saves a row of logits, as long as the vocabulary, for every prompt
token. The logits of the answers exist only once. torch's cross-entropy makes three copies of them, and takes 1.5 times as
long.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.modeling_outputs import MoeModelOutputWithPast

from sparseft.errors import InputError
from sparseft.language_model.batches import Batch, Example, collate

# The number of rows of logits that are in fp32 at once, by device. A GPU needs many to fill it. On a CPU they stay in its cache.
ROWS = {"cpu": 16, "cuda": 512}
# The number of rows of logits that exist at once in an evaluation. On a CPU all do, because a product rounds by its rows.
EVALUATED_ROWS = {"cpu": 1 << 62, "cuda": 1 << 13}


class CrossEntropyFunction(torch.autograd.Function):
    """Compute -log softmax(logits)[target], fp32 (N,), from logits (N, V) and targets int64 (N,).

    The backward overwrites the logits with their gradient, softmax - one-hot, as Liger Kernel does (arXiv 2410.10989,
    section 3.2). So nothing else may use the logits, and the backward must run only once."""

    @staticmethod
    def forward(ctx, logits, targets):
        """Return the losses, fp32 (N,)."""
        # The logarithm of softmax's denominator, (N,).
        log_sums = torch.cat([_wide(rows).logsumexp(1) for rows in logits.split(ROWS[logits.device.type])])
        ctx.kept = logits, targets, log_sums
        return log_sums - _wide(logits.gather(1, targets[:, None])[:, 0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient of the logits, (N, V), in the logits' memory. `grad` is that of the losses, fp32 (N,)."""
        logits, targets, log_sums = ctx.kept
        # The context must not keep the logits alive.
        ctx.kept = None
        number = ROWS[logits.device.type]
        blocks = (tensor.split(number) for tensor in (logits, targets, log_sums, grad))
        for rows, *others in zip(*blocks, strict=True):
            rows.copy_(_cross_entropy_gradient(rows, *others))
        return logits, None


class DistillationFunction(torch.autograd.Function):
    """Compute the losses of CrossEntropyFunction, and KL(p || q) in nats, p = softmax(t / T), q = softmax(s / T), fp32 (2, N).

    s and t (N, V) are the logits of the student and of its teacher, and T is the temperature. The derivative of the divergence by
    s is (q - p) / T. The backward overwrites s, as that of CrossEntropyFunction does."""

    @staticmethod
    def forward(ctx, logits, targets, of_teacher, temperature):
        """Return the losses and the divergences, fp32 (2, N)."""
        losses = CrossEntropyFunction.forward(ctx, logits, targets)
        ctx.kept = *ctx.kept, of_teacher
        ctx.temperature = temperature
        number = ROWS[logits.device.type]
        divergences = []
        for blocks in zip(logits.split(number), of_teacher.split(number), strict=True):
            log_q, log_p = (_wide(rows).div(temperature).log_softmax(1) for rows in blocks)
            by_token = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
            # Only by rounding, a divergence is below 0.
            divergences.append(by_token.clamp_(min=0))
        return torch.stack([losses, torch.cat(divergences)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient of the student's logits, (N, V), in their memory. `grad` is that of the losses, fp32 (2, N)."""
        logits, targets, log_sums, of_teacher = ctx.kept
        ctx.kept = None
        number = ROWS[logits.device.type]
        blocks = (tensor.split(number) for tensor in (logits, targets, log_sums, grad[0], of_teacher, grad[1]))
        for rows, row_targets, row_log_sums, row_grad, teacher_rows, divergence_grad in zip(*blocks, strict=True):
            q, p = (_wide(row).div(ctx.temperature).softmax(1) for row in (rows, teacher_rows))
            of_divergence = q.sub_(p).mul_(divergence_grad[:, None] / ctx.temperature)
            rows.copy_(_cross_entropy_gradient(rows, row_targets, row_log_sums, row_grad).add_(of_divergence))
        return logits, None, None, None


def _wide(values: Tensor) -> Tensor:
    """Return values in fp32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _cross_entropy_gradient(rows: Tensor, targets: Tensor, log_sums: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of some rows of logits, fp32 (n, V). It overwrites logits in fp32."""
    gradient = _wide(rows).sub_(log_sums[:, None]).exp_()
    # An index_put would wait for the GPU to check its indices: in deterministic mode it sorts them.
    gradient.scatter_(1, targets[:, None], -1, reduce="add")
    return gradient.mul_(grad[:, None])


def logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return the logits (B, T, V) of the hidden states (B, T, H), as the model's own forward computes them.

    So whatever a class does with the output of lm_head is done: Granite scales it, and Gemma caps it."""
    decoder = model.get_decoder()
    # The attribute hides the method of the class until it is deleted.
    decoder.forward = lambda **_: MoeModelOutputWithPast(last_hidden_state=hidden)
    try:
        return model(use_cache=False).logits
    finally:
        del decoder.forward


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

        of_teacher: logits (N, V) of `teacher_logits`; with them, the result is that of DistillationFunction, fp32 (2, N)"""
        # (N, H)
        of_answers = answer_states(self.model, batch)
        if of_teacher is not None:
            # Not [0], because the backward of an index copies the gradient.
            own = logits(self.model, of_answers[None]).flatten(0, 1)
            return DistillationFunction.apply(own, batch.targets, of_teacher, temperature)
        if torch.is_grad_enabled():
            return self._losses(of_answers, batch.targets)
        rows = EVALUATED_ROWS[of_answers.device.type]
        parts = zip(of_answers.split(rows), batch.targets.split(rows), strict=True)
        return torch.cat([self._losses(*part) for part in parts])

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return -log p(target) of the positions with the hidden states (N, H), fp32 (N,)."""
        # Not [0], because the backward of an index copies the gradient.
        return CrossEntropyFunction.apply(logits(self.model, hidden[None]).flatten(0, 1), targets)


@torch.no_grad()
def answer_losses(
    loss: Callable[[Batch], Tensor], examples: list[Example], batch_size: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each example's answer, in nats, float64 (N,), and its number of answer tokens, int64 (N,).

    The batch that needs most memory comes first. The order of the results is that of `examples`. Raises InputError if a loss is
    not finite."""
    sums = np.zeros(len(examples))
    tokens = np.array([len(example.ids) - example.answer_start for example in examples])
    for places in evaluation_batches(examples, batch_size):
        by_token = loss(collate([examples[place] for place in places]).to(device)).cpu().double().numpy()
        first_tokens = np.cumsum(tokens[places]) - tokens[places]
        sums[places] = np.add.reduceat(by_token, first_tokens)
    check_finite_evaluation(sums.sum())
    return sums, tokens


def evaluation_batches(examples: list[Example], batch_size: int) -> list[list[int]]:
    """Return the places of the examples in batches of similar lengths. The batch with the most tokens comes first."""
    lengths = [len(example.ids) for example in examples]
    by_length = sorted(range(len(examples)), key=lengths.__getitem__)
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    return sorted(batches, key=lambda batch: -len(batch) * lengths[batch[-1]])


def mean_answer_loss(
    loss: Callable[[Batch], Tensor], examples: list[Example], batch_size: int, device: torch.device
) -> float:
    """Return the mean loss over all answer tokens of `examples`, in nats. Raises InputError if it is not finite."""
    sums, tokens = answer_losses(loss, examples, batch_size, device)
    return float(sums.sum() / tokens.sum())


def check_finite_evaluation(loss: float) -> None:
    """Raise InputError if the loss of an evaluation, a mean or a sum, is not finite."""
    if not math.isfinite(loss):
        raise InputError(f"the evaluation loss is {loss}", "lower training.learning_rate, or check the model's weights")
