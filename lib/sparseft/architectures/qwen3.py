"""Describe Qwen3 (Yang et al. 2025, arXiv 2505.09388): LLaMA's decoder with norms of the queries and keys."""

from sparseft.architectures import decoder
from sparseft.architectures.architecture import Architecture


def activation_bytes(config: dict, width: int) -> int:
    """Return the bytes that one decoder layer keeps per token for its backward under LoRA. A weight has `width` bytes."""
    return decoder.activation_bytes(config, width) + decoder.head_norm_bytes(config)


QWEN3 = Architecture(
    class_name="Qwen3ForCausalLM",
    models="Qwen3",
    differences="norms of the queries and of the keys",
    # transformers' default of head_dim is a number, not hidden_size / num_attention_heads.
    sizes=(*decoder.SIZES, "head_dim"),
    outer_tensors=decoder.OUTER,
    layer_tensors=decoder.NORMS | decoder.ATTENTION | decoder.HEAD_NORMS | decoder.MLP,
    coupled=(decoder.HEADS, decoder.CHANNELS),
    windows=decoder.windows_by_layer,
    activation_bytes=activation_bytes,
    smaller_config=decoder.smaller_config,
)
