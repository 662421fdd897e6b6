"""Describe what a model's attention depends on: its window, and the type of its rotary embedding."""

from transformers import PretrainedConfig

from sparseft.architectures import find_architecture

# Types of rotary embeddings whose angles do not depend on the length of the batch.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")


def attention_window(config: PretrainedConfig) -> int | None:
    """Return how many tokens back a token of this model sees, itself included; None if it sees all."""
    architecture = find_architecture(config.architectures, config.name_or_path)
    return config.sliding_window if architecture.has_window else None
