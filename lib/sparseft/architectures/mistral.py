"""Describe Mistral (Jiang et al. 2023, arXiv 2310.06825): LLaMA's decoder with a sliding window."""

from sparseft.architectures import decoder, modelzoo
from sparseft.architectures.architecture import Architecture

MISTRAL = Architecture(
    class_name="MistralForCausalLM",
    models="Mistral 7B",
    differences="in some releases a sliding window",
    sizes=decoder.SIZES,
    outer_tensors=decoder.OUTER,
    layer_tensors=decoder.NORMS | decoder.ATTENTION | decoder.MLP,
    coupled=(decoder.HEADS, decoder.CHANNELS),
    windows=decoder.same_windows,
    activation_bytes=decoder.activation_bytes,
    smaller_config=decoder.smaller_config,
    modelzoo_names=modelzoo.NAMES,
)
