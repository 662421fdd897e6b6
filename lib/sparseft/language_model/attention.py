"""Describe what a model's attention depends on: the windows of its layers, and the types of its rotary embeddings."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PretrainedConfig

from sparseft.architectures import find_architecture

# Types of rotary embeddings whose angles do not depend on the length of the batch.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")


def attention_windows(config: PretrainedConfig) -> list[int | None]:
    """Return by decoder layer how many tokens back a token of this model sees, itself included; None if it sees all."""
    return find_architecture(config.architectures, config.name_or_path).windows(config.to_dict())


def attention_mask(config: PretrainedConfig, mask: Callable[[int | None], Tensor]) -> Tensor | dict[str, Tensor]:
    """Return the attention mask that a decoder takes, from `mask`, a function of the window.

    A decoder whose layers have different windows takes one mask per type of layer, by the type."""
    windows = attention_windows(config)
    masks = {window: mask(window) for window in set(windows)}
    if len(masks) == 1:
        return masks[windows[0]]
    return {kind: masks[window] for kind, window in zip(config.layer_types, windows, strict=True)}


def has_fixed_rope(model: nn.Module) -> bool:
    """Return whether the rotary angles of a model do not depend on the length of the batch."""
    types = model.get_decoder().rotary_emb.rope_type
    # A model whose layers have different angles has one type per type of layer.
    return set(types.values() if isinstance(types, dict) else [types]) <= set(FIXED_ROPE)
