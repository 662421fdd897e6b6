"""Models and batches of one fixed length, for backends that compile a program for given shapes.

A batch is ids and labels, int32 (B, T): padded on the right, a label the token that follows its position, or IGNORED
where no answer's token follows. The sum of the answers' losses is that of loss.py.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseft.backends.dense_experts import make_experts_dense
from sparseft.errors import InputError
from sparseft.language_model.attention import FIXED_ROPE, attention_window
from sparseft.language_model.batches import Example

IGNORED = -100
HIDDEN = -1e4  # added to the score of what a position must not see: finite in every 16-bit format, and exp() of it is 0


class FixedLengthLoss(nn.Module):
    """A language model's answer loss on batches of `length` tokens; prepares the model in place.

    Rotary angles and the causal mask are tensors made here, once. Raises InputError for a model that has no fixed ones."""

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        config = model.config
        if length > config.max_position_embeddings:
            raise InputError(
                f"cerebras.sequence_length {length}: the model takes {config.max_position_embeddings} tokens",
                "lower it",
            )
        model.set_attn_implementation("eager")
        model.model.rotary_emb = _FixedRotary(model.model.rotary_emb, length)
        make_experts_dense(model)
        mask = causal_mask(length, attention_window(config)).to(model.dtype)
        self.register_buffer("causal_mask", mask, persistent=False)
        self.model = model

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """(B, T) each -> the sum over the answers' tokens of -log p(token), fp32, scalar."""
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        hidden = decoder(input_ids=ids.long(), attention_mask=self.causal_mask, use_cache=False).last_hidden_state
        logits = head(hidden)  # (B, T, V)
        return F.cross_entropy(
            logits.float().flatten(0, 1), labels.long().flatten(), ignore_index=IGNORED, reduction="sum"
        )


class _FixedRotary(nn.Module):
    """The rotary embedding's cosines and sines for the positions 0 to length - 1, (1, T, head_dim) fp32."""

    def __init__(self, rotary: nn.Module, length: int) -> None:
        super().__init__()
        if rotary.rope_type not in FIXED_ROPE:
            raise InputError(
                f"rope type {rotary.rope_type!r}: its angles depend on the length of a batch",
                f"use a model with {', '.join(FIXED_ROPE)}, or backend: torch",
            )
        with torch.no_grad():
            cos, sin = rotary(torch.zeros(1, 1), torch.arange(length)[None])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """In x's dtype; the positions are known."""
        return self.cos.to(x.dtype), self.sin.to(x.dtype)


def causal_mask(length: int, window: int | None) -> Tensor:
    """(1, 1, T, T) fp32, added to the scores: 0 for what a position sees, itself and at most `window` - 1 before it."""
    distance = torch.arange(length)[:, None] - torch.arange(length)  # query - key
    seen = (distance >= 0) & (distance < (window or length))
    return torch.where(seen, 0.0, HIDDEN)[None, None]


def fixed_batch(examples: list[Example], length: int, size: int) -> dict[str, Tensor]:
    """A batch of `size` rows; those beyond the examples are padding alone."""
    ids = torch.zeros(size, length, dtype=torch.int32)
    labels = torch.full((size, length), IGNORED, dtype=torch.int32)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        answer = torch.tensor(example.ids[example.answer_start :])
        labels[row, example.answer_start - 1 : len(example.ids) - 1] = answer.int()
    return {"ids": ids, "labels": labels}
