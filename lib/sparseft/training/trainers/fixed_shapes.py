"""Models, layers and batches of fixed shapes, for backends that compile a program before it runs.

A batch has ids and labels, int32 (B, T), padded on the right. A label is the token that follows its position, or
IGNORED if no token of the answer follows. The sum of the answers' losses equals that of models/language_model/loss.py.
The LoRA layers and the experts are in plain tensor algebra, which a compiler that traces the model can lower.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseft.axes.architectures import find_architecture
from sparseft.common.errors import InputError
from sparseft.models.language_model.batches import Example, encode_splits, of_length, refuse_longer
from sparseft.models.language_model.loss import logits
from sparseft.training.job import TrainingJob
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.factors import masked_update
from sparseft.training.lora.masked_lora import LoRALinear, MaskedLoRALinear, StructuredLoRALinear, kind_of
from sparseft.training.settings import Training

IGNORED = -100
# Types of rotary embeddings whose angles do not depend on the length of the batch.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
# Added to the scores that a position must not see. It is finite in every 16-bit format, and exp() of it is 0.
HIDDEN = -1e4


class FixedLengthLoss(nn.Module):
    """Compute a language model's answer loss on batches of `length` tokens. It changes the model in place.

    The rotary angles and the causal mask are computed once, here. Raises InputError for a model whose angles are not
    fixed."""

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
        # All decoder layers of LLaMA, Mistral and Mixtral have the same window.
        window = find_architecture(config.architectures, config.name_or_path).windows(config.to_dict())[0]
        self.register_buffer("causal_mask", causal_mask(length, window).to(model.dtype), persistent=False)
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
    visible = (distance >= 0) & (distance < (window or length))
    return torch.where(visible, 0.0, HIDDEN)[None, None]


def encoded_data(job: TrainingJob, tokenizer, length: int, *, fill: bool = False) -> dict[str, list[Example]]:
    """Return the examples by split, as tokens. With `fill`, cut or repeat each to `length` tokens.

    Raises InputError if an example has more than `length` tokens."""
    data = encode_splits(job.rows, job.task, tokenizer, sys.maxsize, job.settings.train_on_inputs)
    if fill:
        return {split: [of_length(example, length) for example in examples] for split, examples in data.items()}
    refuse_longer(
        "examples",
        [len(example.ids) for examples in data.values() for example in examples],
        length,
        "set cerebras.sequence_length to the longest's, or leave them out of the data",
    )
    return data


def fixed_batch(examples: list[Example], length: int, size: int) -> dict[str, Tensor]:
    """Return ids and labels of `size` rows, int32 (size, length). The rows after the examples are only padding."""
    ids = torch.zeros(size, length, dtype=torch.int32)
    labels = torch.full((size, length), IGNORED, dtype=torch.int32)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        answer = slice(example.answer_start, len(example.ids))
        labels[row, answer.start - 1 : answer.stop - 1] = ids[row, answer]
    return {"ids": ids, "labels": labels}


class DenseExperts(nn.Module):
    """Compute Mixtral's expert block without routing by value: every expert sees every token, weighted by the router.

    It replaces transformers' MixtralSparseMoeBlock. Its modules and their names stay. The stock block gathers the
    tokens of each expert, for which the host reads their indices. Here an expert that is not among a token's k best has
    the weight 0. It is E / k times the work. Source: Jiang et al. 2024, arXiv 2401.04088, section 2.1."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate = block.gate
        self.experts = block.experts
        self.top_k = block.top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, H) for x (B, T, H), and the router's logits (B, T, E)."""
        logits = self.gate(x)
        weights = top_k_weights(logits, self.top_k).to(x.dtype)
        parts = [expert(x) * weights[..., e : e + 1] for e, expert in enumerate(self.experts)]
        return sum(parts[1:], parts[0]), logits


def make_experts_dense(model: nn.Module) -> None:
    """Replace every expert block of a Mixtral of transformers 4 by `DenseExperts`, in place."""
    for layer in model.model.layers:
        if hasattr(layer, "block_sparse_moe"):
            layer.block_sparse_moe = DenseExperts(layer.block_sparse_moe)


def top_k_weights(logits: Tensor, k: int) -> Tensor:
    """Return the weights of the experts (..., E), in fp32, from the router's logits (..., E).

    It is softmax, set to 0 outside the k most probable experts, and divided by its sum. An expert's rank is the number
    of experts up to it. Of equally probable experts, the first comes first."""
    p = torch.softmax(logits.float(), dim=-1)
    ranks = []
    for e in range(p.shape[-1]):
        own = p[..., e : e + 1]
        ranks.append((p > own).float().sum(-1) + (p[..., : e + 1] == own).float().sum(-1))
    kept = p * (torch.stack(ranks, dim=-1) <= k).float()
    return kept / kept.sum(-1, keepdim=True)


class PlainLoRALinear(LoRALinear):
    """Compute y = x (W * M)^T + b + s (dropout(x) A^T) B^T, with no product in place and no autograd function.

    Weights, draws and factors are inherited from training/lora/masked_lora.py. Only the forward differs."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in x's dtype."""
        A, B = (matrix.to(x.dtype) for matrix in self.factors())
        # (..., r)
        low = F.linear(self.dropout(x), A)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, B)


class PlainStructuredLoRALinear(StructuredLoRALinear):
    """Compute the same with factors that are masked by rows and columns."""

    forward = PlainLoRALinear.forward


class PlainMaskedLoRALinear(MaskedLoRALinear):
    """Compute y = x (W * M + s (B A) * M)^T + b, with M in a tensor of its own."""

    def __init__(self, linear: nn.Linear, kept: Tensor, settings: Training, workspace: Workspace) -> None:
        super().__init__(linear, kept, settings, workspace)
        self.register_buffer("M", kept.to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in x's dtype.

        W is added last, as in effective_weight.py. The bits may differ from there, because the compiler chooses the
        order of the ranks, and because s multiplies B A instead of B."""
        update = masked_update(self.lora_A, self.lora_B, self.scale, self.M)
        return F.linear(x, (self.weight + update).to(x.dtype), self.bias)


_PLAIN = {
    LoRALinear: PlainLoRALinear,
    StructuredLoRALinear: PlainStructuredLoRALinear,
    MaskedLoRALinear: PlainMaskedLoRALinear,
}


def plain_kind_of(mode: str, kept: Tensor) -> type[LoRALinear]:
    """Return the plain form of the layer class that `kind_of` chooses for a mode and a mask (out, in)."""
    return _PLAIN[kind_of(mode, kept)]


def effective_factors(job: TrainingJob, layer: str, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (r, in) and B (out, r) as the layer of a training multiplies by them."""
    kept = torch.from_numpy(job.mask.kept(layer))
    if kind_of(job.mode, kept) is StructuredLoRALinear:
        return A * kept.any(0), B * kept.any(1)[:, None]
    return A, B
