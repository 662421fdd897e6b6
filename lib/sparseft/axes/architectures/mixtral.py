"""Describe Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral's attention, and experts with a router.

An expert's matrices are w1 (gate), w2 (down) and w3 (up). The router `block_sparse_moe.gate` is never pruned.
"""

from dataclasses import replace

from sparseft.axes.architectures import decoder
from sparseft.axes.architectures.architecture import ExpertBlock

EXPERTS = {
    "block_sparse_moe.gate.weight": ("num_local_experts", "hidden_size"),
    "block_sparse_moe.experts.{expert}.w1.weight": ("intermediate_size", "hidden_size"),
    "block_sparse_moe.experts.{expert}.w2.weight": ("hidden_size", "intermediate_size"),
    "block_sparse_moe.experts.{expert}.w3.weight": ("intermediate_size", "hidden_size"),
}
CHANNELS = replace(decoder.CHANNELS, block="block_sparse_moe.experts.{expert}", rows=("w1", "w3"), columns=("w2",))


MIXTRAL = replace(
    decoder.DECODER,
    class_name="MixtralForCausalLM",
    models="Mixtral 8x7B and 8x22B",
    differences="experts and a router",
    more_sizes=("num_experts_per_tok",),
    layer_tensors=decoder.NORMS | decoder.ATTENTION | EXPERTS,
    coupled=(decoder.HEADS, CHANNELS),
    windows=decoder.same_windows,
    experts=ExpertBlock(on_disk="block_sparse_moe", in_memory="mlp", gate="w1", up="w3", down="w2"),
    modelzoo_names=decoder.MODELZOO_NAMES,
)
