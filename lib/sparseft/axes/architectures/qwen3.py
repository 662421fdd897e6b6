"""Describe Qwen3 (Yang et al. 2025, arXiv 2505.09388): LLaMA's decoder with norms of the queries and keys."""

from dataclasses import replace

from sparseft.axes.architectures import decoder

QWEN3 = replace(
    decoder.DECODER,
    class_name="Qwen3ForCausalLM",
    models="Qwen3",
    differences="norms of the queries and of the keys",
    layer_tensors=decoder.NORMS | decoder.ATTENTION | decoder.HEAD_NORMS | decoder.MLP,
    windows=decoder.windows_by_layer,
)
