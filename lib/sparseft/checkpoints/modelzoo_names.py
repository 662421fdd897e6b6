"""Names and coordinates: Hugging Face's LLaMA, Mistral and Mixtral <-> Cerebras ModelZoo's, releases 2.1 to 2.10.

    model.layers.i.self_attn.{q,k}_proj     proj_{q,k}_dense_layer: rows of a head interleaved, (2, d/2) -> (d/2, 2)
    model.norm                              transformer_decoder.norm, and ln_f, which is the same module
    block_sparse_moe.experts.e.w1, w3, w2   one parameter each, stacked on axis 1: (out, E, in)
    all others                              the same values under another name

Rotary embeddings pair row j of a head with row j + d/2 in Hugging Face's code, with the next row in ModelZoo's. The same
rows are permuted in the masks and in lora_B of q and k; lora_A is the same in both.
Source: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/tools/checkpoint_converters/{llama,mixtral}.py.
"""

import re
from dataclasses import dataclass

import numpy as np

from sparseft.checkpoints.layers import attention_heads
from sparseft.checkpoints.shapes import Shapes

_ENDS = {
    "model.embed_tokens": "embedding_layer.word_embeddings",
    "model.norm": "transformer_decoder.norm",
    "lm_head": "lm_head",
}
_LAYER = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm3",
    "self_attn.q_proj": "self_attn.proj_q_dense_layer",
    "self_attn.k_proj": "self_attn.proj_k_dense_layer",
    "self_attn.v_proj": "self_attn.proj_v_dense_layer",
    "self_attn.o_proj": "self_attn.proj_output_dense_layer",
    "mlp.gate_proj": "ffn.ffn.0.linear_layer_for_glu",
    "mlp.up_proj": "ffn.ffn.0.linear_layer",
    "mlp.down_proj": "ffn.ffn.1.linear_layer",
    "block_sparse_moe.gate": "ffn.gate",
}
_EXPERT = {"w1": "0.linear_layer_for_glu", "w3": "0.linear_layer", "w2": "1.linear_layer"}
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_IN_EXPERT = re.compile(r"block_sparse_moe\.experts\.(\d+)\.(w[123])")


@dataclass(frozen=True)
class Place:
    """Where a weight lies in a ModelZoo model.

    `key`: the parameter's, without the leading "model." of trainer checkpoints; `expert`: its number on axis 1 of a stack;
    `head_dim`: of a matrix whose heads' rows are interleaved."""

    key: str
    expert: int | None = None
    head_dim: int | None = None


def places(config: dict, shapes: Shapes) -> dict[str, Place]:
    """Where every tensor of a Hugging Face checkpoint lies, in the order of `shapes`, what `tensor_shapes` says of `config`."""
    head_dim = attention_heads(config)[2]
    return {name: _place(name.removesuffix(".weight"), head_dim) for name in shapes}


def duplicates(config: dict) -> dict[str, str]:
    """Keys that a ModelZoo model has beside the places of all tensors -> the key of the same values."""
    tied = {"lm_head.weight": "embedding_layer.word_embeddings.weight"} if config.get("tie_word_embeddings") else {}
    return {"ln_f.weight": "transformer_decoder.norm.weight", **tied}


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of q or k, of their mask or their lora_B, from Hugging Face to ModelZoo: (heads * head_dim, ...), same shape."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def deinterleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse of `interleave`."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _place(layer: str, head_dim: int) -> Place:
    if layer in _ENDS:
        return Place(f"{_ENDS[layer]}.weight")
    number, name = _IN_LAYER.fullmatch(layer).groups()
    prefix = f"transformer_decoder.layers.{number}"
    if found := _IN_EXPERT.fullmatch(name):
        expert, matrix = found.groups()
        return Place(f"{prefix}.ffn.experts.fused_ffns.{_EXPERT[matrix]}.expert_weights", expert=int(expert))
    interleaved = name in ("self_attn.q_proj", "self_attn.k_proj")
    return Place(f"{prefix}.{_LAYER[name]}.weight", head_dim=head_dim if interleaved else None)
