"""The answer loss: cross-entropy of the answer tokens, in nats.

lm_head runs on the answers' positions alone, which spares a vocabulary-sized row for every prompt token, and of the
answers' rows there is one copy, where torch's cross-entropy makes three and takes half as long again.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparseft.errors import InputError
from sparseft.language_model.batches import Batch, Example, collate

ROWS = 16  # of logits that are worked on in fp32 at once


class CrossEntropyFunction(torch.autograd.Function):
    """-log softmax(logits)[target], fp32 (N,); logits (N, V), targets int64 (N,).

    The backward turns the logits themselves into their gradient, softmax - one-hot, as Liger Kernel does (arXiv
    2410.10989, section 3.2): nothing else may use them, and it runs once."""

    @staticmethod
    def forward(ctx, logits, targets):
        scales = torch.cat([rows.float().logsumexp(1) for rows in logits.split(ROWS)])  # (N,)
        ctx.kept = logits, targets, scales
        return scales - logits.gather(1, targets[:, None])[:, 0].float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (logits, targets, scales), ctx.kept = ctx.kept, None
        parts = (kept.split(ROWS) for kept in (logits, targets, scales, grad))
        for rows, target, scale, weight in zip(*parts, strict=True):
            softmax = rows.float().sub_(scale[:, None]).exp_()
            softmax[torch.arange(len(target), device=target.device), target] -= 1
            rows.copy_(softmax.mul_(weight[:, None]))
        return logits, None


class AnswerLoss(nn.Module):
    """A language model's loss on a batch; a module, so that what divides a model among processes can take hold of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """-log p(token) of the batch's answer tokens, fp32 (N,)."""
        hidden = self.model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state  # (B, T, H)
        logits = self.model.get_output_embeddings()(hidden.flatten(0, 1)[batch.positions])  # (N, V)
        return CrossEntropyFunction.apply(logits, batch.targets)


@torch.no_grad()
def answer_losses(
    loss: AnswerLoss, examples: list[Example], batch_size: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """By example: the sum over its answer tokens, nats, float64 (N,), and how many they are, int64 (N,).

    Batches by length, which changes no example's loss. Raises InputError where one is not finite."""
    sums, tokens = np.zeros(len(examples)), np.array([len(example.ids) - example.answer_start for example in examples])
    by_length = sorted(range(len(examples)), key=lambda place: len(examples[place].ids))
    for start in range(0, len(by_length), batch_size):
        places = by_length[start : start + batch_size]
        by_token = loss(collate([examples[place] for place in places]).to(device)).cpu().double().numpy()
        sums[places] = np.add.reduceat(by_token, np.cumsum(tokens[places]) - tokens[places])
    check_finite_evaluation(sums.sum())
    return sums, tokens


def mean_answer_loss(loss: AnswerLoss, examples: list[Example], batch_size: int, device: torch.device) -> float:
    """Mean over all answer tokens of `examples`, nats. Raises InputError where it is not finite."""
    sums, tokens = answer_losses(loss, examples, batch_size, device)
    return float(sums.sum() / tokens.sum())


def check_finite_evaluation(loss: float) -> None:
    """Raises InputError where the loss of an evaluation, a mean or a sum, is not finite."""
    if not math.isfinite(loss):
        raise InputError(f"the evaluation loss is {loss}", "lower training.learning_rate, or check the model's weights")
