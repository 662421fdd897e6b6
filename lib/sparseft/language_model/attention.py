"""Describe what a model's attention depends on: its windows, and the type of its rotary embedding."""

from torch import nn
from transformers import PretrainedConfig

from sparseft.architectures import find_architecture

# Types of rotary embeddings whose angles do not depend on the length of the batch.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")


def attention_windows(config: PretrainedConfig) -> list[int | None]:
    """Return by decoder layer how many tokens back a token of this model sees, itself included; None if it sees all."""
    return find_architecture(config.architectures, config.name_or_path).windows(config.to_dict())


def has_fixed_rope(model: nn.Module) -> bool:
    """Return whether the rotary angles of a model do not depend on the length of the batch."""
    types = model.get_decoder().rotary_emb.rope_type
    # A model whose layers have different angles has one type per type of layer.
    return set(types.values() if isinstance(types, dict) else [types]) <= set(FIXED_ROPE)
