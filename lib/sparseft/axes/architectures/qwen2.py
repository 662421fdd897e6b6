"""Describe Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): LLaMA's decoder with biases of q, k and v."""

from dataclasses import replace

from sparseft.axes.architectures import decoder

QWEN2 = replace(
    decoder.DECODER,
    class_name="Qwen2ForCausalLM",
    models="Qwen2 and Qwen2.5",
    differences="biases of q, k and v",
    layer_tensors=decoder.NORMS | decoder.ATTENTION | decoder.QKV_BIASES | decoder.MLP,
    windows=decoder.windows_by_layer,
    # transformers' code reads head_dim, although its Qwen2Config does not name it.
)
