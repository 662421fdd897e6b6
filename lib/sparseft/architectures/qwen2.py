"""Describe Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): LLaMA's decoder with biases of q, k and v."""

from sparseft.architectures import decoder
from sparseft.architectures.architecture import Architecture

QWEN2 = Architecture(
    class_name="Qwen2ForCausalLM",
    models="Qwen2 and Qwen2.5",
    differences="biases of q, k and v",
    sizes=decoder.SIZES,
    outer_tensors=decoder.OUTER,
    layer_tensors=decoder.NORMS | decoder.ATTENTION | decoder.QKV_BIASES | decoder.MLP,
    coupled=(decoder.HEADS, decoder.CHANNELS),
    windows=decoder.windows_by_layer,
    activation_bytes=decoder.activation_bytes,
    # transformers' code reads head_dim, although its Qwen2Config does not name it.
    smaller_config=decoder.smaller_config,
)
