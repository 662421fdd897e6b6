"""Locate the tensors of a Hugging Face checkpoint in a Cerebras ModelZoo model, and permute the rows of q and k.

Rotary embeddings pair row j of a head with row j + d/2 in Hugging Face's code, and with the next row in ModelZoo's. So the
rows of each head of q and k are interleaved: (2, d/2) -> (d/2, 2). Their masks and lora_B are permuted in the same way.
lora_A is the same in both.
"""

import re
from dataclasses import dataclass

import numpy as np

from sparseft.architectures import find_architecture
from sparseft.architectures.architecture import Shapes
from sparseft.architectures.config_sizes import attention_heads
from sparseft.architectures.modelzoo import ROTATED
from sparseft.errors import InputError

_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_IN_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Place:
    """Locate a weight in a ModelZoo model.

    `key` is the parameter's name, without the leading "model." of trainer checkpoints. `expert` is the weight's number on
    axis 1, if the parameter stacks experts. `head_dim` is the number of rows of a head, if they are interleaved."""

    key: str
    expert: int | None = None
    head_dim: int | None = None


def places(config: dict, shapes: Shapes) -> dict[str, Place]:
    """Return the place of each tensor in `shapes`, in their order; they are the tensors that `config` describes.

    Raises InputError if ModelZoo has no model of this architecture."""
    architecture = find_architecture(config.get("architectures"), "config.json")
    names = architecture.modelzoo_names
    if names is None:
        raise InputError(f"Cerebras ModelZoo has no names for {architecture.class_name}", "use a Hugging Face folder")
    head_dim = attention_heads(config).size
    return {name: _place(name.removesuffix(".weight"), names, head_dim) for name in shapes}


def duplicates(config: dict) -> dict[str, str]:
    """Return the keys that a ModelZoo model has in addition -> the key with the same values."""
    same = {"ln_f.weight": "transformer_decoder.norm.weight"}
    if config.get("tie_word_embeddings"):
        same["lm_head.weight"] = "embedding_layer.word_embeddings.weight"
    return same


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Return rows (heads * head_dim, ...) of q or k, or of their mask or lora_B, in ModelZoo's order."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def deinterleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Return rows in Hugging Face's order. It is the inverse of `interleave`."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _place(layer: str, names: dict[str, str], head_dim: int) -> Place:
    """Return the place of a tensor, named without ".weight"."""
    if layer in names:
        return Place(names[layer])
    number, name = _IN_LAYER.fullmatch(layer).groups()
    prefix = f"transformer_decoder.layers.{number}"
    if in_expert := _IN_EXPERT.fullmatch(name):
        block, expert, matrix = in_expert.groups()
        return Place(f"{prefix}.{names[f'{block}.{{expert}}.{matrix}']}", expert=int(expert))
    return Place(f"{prefix}.{names[name]}", head_dim=head_dim if name in ROTATED else None)
