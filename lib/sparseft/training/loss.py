"""The answer loss: cross-entropy in nats per answer token.

lm_head runs on the answers' positions alone, which spares a vocabulary-sized row for every prompt token.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseft.training.batches import Batch, Example, collate
from sparseft.training.progress import check_finite_evaluation


class AnswerLoss(nn.Module):
    """A language model's loss on a batch; a module, so that what divides a model among processes can take hold of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Sum over the batch's answer tokens of -log p(token), fp32, scalar."""
        hidden = self.model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state  # (B, T, H)
        logits = self.model.get_output_embeddings()(hidden.flatten(0, 1)[batch.positions])  # (N, V)
        return F.cross_entropy(logits.float(), batch.targets, reduction="sum")


@torch.no_grad()
def mean_answer_loss(loss: AnswerLoss, examples: list[Example], batch_size: int, device: torch.device) -> float:
    """Mean over all answer tokens of `examples`, nats; batches by length, which changes no example's loss.

    Raises InputError where it is not finite."""
    by_length = sorted(examples, key=lambda example: len(example.ids))
    total, tokens = 0.0, 0
    for start in range(0, len(by_length), batch_size):
        batch = collate(by_length[start : start + batch_size]).to(device)
        total += loss(batch).item()
        tokens += batch.targets.numel()
    check_finite_evaluation(total)
    return total / tokens
