"""Models and batches of one fixed length, for backends that compile a program for given shapes.

A batch has ids and labels, int32 (B, T), padded on the right. A label is the token that follows its position, or IGNORED if
no token of the answer follows. The sum of the answers' losses equals that of language_model/loss.py.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseft.backends.dense_experts import make_experts_dense
from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.language_model.loss import logits
from sparseft.language_model.model import FIXED_ROPE, attention_windows

IGNORED = -100
# Added to the scores that a position must not see. It is finite in every 16-bit format, and exp() of it is 0.
HIDDEN = -1e4


class FixedLengthLoss(nn.Module):
    """Compute a language model's answer loss on batches of `length` tokens. It changes the model in place.

    The rotary angles and the causal mask are computed once, here. Raises InputError for a model whose angles are not fixed,
    or whose decoder layers have different windows."""

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        config = model.config
        if length > config.max_position_embeddings:
            raise InputError(
                f"cerebras.sequence_length {length}: the model takes {config.max_position_embeddings} tokens",
                f"set it to {config.max_position_embeddings} or less",
            )
        model.set_attn_implementation("eager")
        model.model.rotary_emb = _FixedRotary(model.model.rotary_emb, length)
        make_experts_dense(model)
        windows = set(attention_windows(config))
        if len(windows) > 1:
            raise InputError("the decoder layers have different windows", "set backend: torch")
        mask = causal_mask(length, *windows).to(model.dtype)
        self.register_buffer("causal_mask", mask, persistent=False)
        self.model = model

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Map ids and labels, (B, T), to the sum of -log p(token) over the answers' tokens, a fp32 scalar."""
        decoder = self.model.get_decoder()
        hidden = decoder(input_ids=ids.long(), attention_mask=self.causal_mask, use_cache=False).last_hidden_state
        # (B * T, V)
        scores = logits(self.model, hidden).float().flatten(0, 1)
        return F.cross_entropy(scores, labels.long().flatten(), ignore_index=IGNORED, reduction="sum")


class _FixedRotary(nn.Module):
    """Hold the rotary embedding's cosines and sines for the positions 0 to length - 1, (1, T, head_dim) fp32."""

    def __init__(self, rotary: nn.Module, length: int) -> None:
        super().__init__()
        if rotary.rope_type not in FIXED_ROPE:
            raise InputError(
                f"rope type {rotary.rope_type!r}: its angles depend on the length of a batch",
                f"use a model with rope type {', '.join(FIXED_ROPE)}, or set backend: torch",
            )
        with torch.no_grad():
            cos, sin = rotary(torch.zeros(1, 1), torch.arange(length)[None])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines in x's dtype. The positions are always 0 to length - 1."""
        return self.cos.to(x.dtype), self.sin.to(x.dtype)


def causal_mask(length: int, window: int | None) -> Tensor:
    """Return what is added to the scores, (1, 1, T, T) fp32: 0 for what a position sees, HIDDEN for the others.

    A position sees itself and at most `window` - 1 positions before it; None means all of them."""
    # The position of the query minus that of the key.
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance >= 0) & (distance < (window or length))
    return torch.where(seen, 0.0, HIDDEN)[None, None]


def fixed_batch(examples: list[Example], length: int, size: int) -> dict[str, Tensor]:
    """Return ids and labels of `size` rows, int32 (size, length). The rows after the examples are only padding."""
    ids = torch.zeros(size, length, dtype=torch.int32)
    labels = torch.full((size, length), IGNORED, dtype=torch.int32)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        answer = torch.tensor(example.ids[example.answer_start :])
        labels[row, example.answer_start - 1 : len(example.ids) - 1] = answer.int()
    return {"ids": ids, "labels": labels}
