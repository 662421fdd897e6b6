"""Describe what a model's attention depends on: its window, and rotary angles that no batch changes."""

from transformers import PretrainedConfig

FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # the others' angles depend on the length of the batch


def attention_window(config: PretrainedConfig) -> int | None:
    """Return how many tokens back a token of this model sees, itself included; None for all.

    The configuration of a LLaMA may hold `sliding_window`, left from a Mistral, but LLaMA's code passes over it."""
    return None if config.model_type == "llama" else config.sliding_window
