"""Compute the answer loss: the cross-entropy of the answer tokens, in nats.

lm_head runs only on the positions of the answers, which saves a row as long as the vocabulary for every prompt token. The
rows of the answers exist once; torch's cross-entropy makes three copies and takes 1.5 times as long.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparseft.errors import InputError
from sparseft.language_model.batches import Batch, Example, collate

# The number of rows of logits that are processed in fp32 at once.
ROWS = 16


class CrossEntropyFunction(torch.autograd.Function):
    """Compute -log softmax(logits)[target], fp32 (N,), from logits (N, V) and targets int64 (N,).

    The backward overwrites the logits with their gradient, softmax - one-hot, as Liger Kernel does (arXiv 2410.10989,
    section 3.2). So nothing else may use them, and the backward runs only once."""

    @staticmethod
    def forward(ctx, logits, targets):
        """Return the losses, fp32 (N,)."""
        # (N,)
        scales = torch.cat([rows.float().logsumexp(1) for rows in logits.split(ROWS)])
        ctx.kept = logits, targets, scales
        return scales - logits.gather(1, targets[:, None])[:, 0].float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient of the logits, in their memory; `grad` is fp32 (N,)."""
        logits, targets, scales = ctx.kept
        # The context must not keep the logits alive.
        ctx.kept = None
        parts = (kept.split(ROWS) for kept in (logits, targets, scales, grad))
        for rows, target, scale, weight in zip(*parts, strict=True):
            softmax = rows.float().sub_(scale[:, None]).exp_()
            softmax[torch.arange(len(target), device=target.device), target] -= 1
            rows.copy_(softmax.mul_(weight[:, None]))
        return logits, None


class AnswerLoss(nn.Module):
    """Compute a language model's loss on a batch. It is a module, so that FSDP can wrap it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Return -log p(token) of the batch's answer tokens, fp32 (N,)."""
        # (B, T, H)
        hidden = self.model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
        # (N, V)
        logits = self.model.get_output_embeddings()(hidden.flatten(0, 1)[batch.positions])
        return CrossEntropyFunction.apply(logits, batch.targets)


@torch.no_grad()
def answer_losses(
    loss: AnswerLoss, examples: list[Example], batch_size: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each example the loss of its answer, in nats, float64 (N,), and the answer's tokens, int64 (N,).

    Batches hold examples of similar length; the order changes no loss. Raises InputError if a loss is not finite."""
    sums = np.zeros(len(examples))
    tokens = np.array([len(example.ids) - example.answer_start for example in examples])
    by_length = sorted(range(len(examples)), key=lambda place: len(examples[place].ids))
    for start in range(0, len(by_length), batch_size):
        places = by_length[start : start + batch_size]
        by_token = loss(collate([examples[place] for place in places]).to(device)).cpu().double().numpy()
        sums[places] = np.add.reduceat(by_token, np.cumsum(tokens[places]) - tokens[places])
    check_finite_evaluation(sums.sum())
    return sums, tokens


def mean_answer_loss(loss: AnswerLoss, examples: list[Example], batch_size: int, device: torch.device) -> float:
    """Return the mean loss over all answer tokens of `examples`, in nats. Raises InputError if it is not finite."""
    sums, tokens = answer_losses(loss, examples, batch_size, device)
    return float(sums.sum() / tokens.sum())


def check_finite_evaluation(loss: float) -> None:
    """Raise InputError if the loss of an evaluation, a mean or a sum, is not finite."""
    if not math.isfinite(loss):
        raise InputError(f"the evaluation loss is {loss}", "lower training.learning_rate, or check the model's weights")
