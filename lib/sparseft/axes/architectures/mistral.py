"""Describe Mistral (Jiang et al. 2023, arXiv 2310.06825): LLaMA's decoder with a sliding window."""

from dataclasses import replace

from sparseft.axes.architectures import decoder

MISTRAL = replace(
    decoder.DECODER,
    class_name="MistralForCausalLM",
    models="Mistral 7B",
    differences="in some releases a sliding window",
    windows=decoder.same_windows,
    modelzoo_names=decoder.MODELZOO_NAMES,
)
