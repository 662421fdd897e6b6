"""Describe what a model's attention depends on: the windows of its layers, and the types of its rotary embeddings."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PretrainedConfig

from sparseft.architectures import find_architecture

# Types of rotary embeddings whose angles do not depend on the length of the batch.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
# The types of layers in config.json that see only the last `sliding_window` tokens.
_SLIDING = "sliding_attention"


def attention_window(config: PretrainedConfig) -> int | None:
    """Return how many tokens back a token of this model sees, itself included; None if it sees all.

    If only some layers have a window, this is their window."""
    architecture = find_architecture(config.architectures, config.name_or_path)
    types = _layer_types(config)
    has_window = architecture.has_window and (not types or _SLIDING in types)
    return config.sliding_window if has_window else None


def attention_mask(config: PretrainedConfig, mask: Callable[[int | None], Tensor]) -> Tensor | dict[str, Tensor]:
    """Return the attention mask that a decoder takes, from `mask`, a function of the window.

    A decoder whose layers may have different windows takes one mask per type of layer, by the type."""
    window = attention_window(config)
    types = _layer_types(config)
    if not types:
        return mask(window)
    return {name: mask(window if name == _SLIDING else None) for name in types}


def has_fixed_rope(model: nn.Module) -> bool:
    """Return whether the rotary angles of a model do not depend on the length of the batch."""
    types = model.get_decoder().rotary_emb.rope_type
    # A model whose layers have different angles has one type per type of layer.
    return set(types.values() if isinstance(types, dict) else [types]) <= set(FIXED_ROPE)


def _layer_types(config: PretrainedConfig) -> list[str]:
    """Return the distinct types of the decoder layers, sorted; none if the model's class knows no types.

    Mistral's class ignores `layer_types`, which its config.json may hold."""
    return sorted(set(config.layer_types)) if hasattr(type(config), "layer_types") else []
