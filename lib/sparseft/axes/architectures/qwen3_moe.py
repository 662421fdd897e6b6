"""Describe the mixtures of Qwen3 (Yang et al. 2025, arXiv 2505.09388): Qwen3's attention, and experts with a router.

The router `mlp.gate` is never pruned. transformers can mix layers with and without experts. Qwen's own models do not.
"""

from dataclasses import replace

from sparseft.axes.architectures import decoder
from sparseft.axes.architectures.architecture import ExpertBlock

EXPERTS = {
    "mlp.gate.weight": ("num_local_experts", "hidden_size"),
    "mlp.experts.{expert}.gate_proj.weight": ("moe_intermediate_size", "hidden_size"),
    "mlp.experts.{expert}.up_proj.weight": ("moe_intermediate_size", "hidden_size"),
    "mlp.experts.{expert}.down_proj.weight": ("hidden_size", "moe_intermediate_size"),
}
CHANNELS = replace(decoder.CHANNELS, block="mlp.experts.{expert}", unit="moe_intermediate_size")


def windows(config: dict) -> list[int | None]:
    """Return the window of each decoder layer. It needs `use_sliding_window`."""
    return decoder.same_windows(config) if config.get("use_sliding_window") else decoder.no_windows(config)


QWEN3_MOE = replace(
    decoder.DECODER,
    class_name="Qwen3MoeForCausalLM",
    models="Qwen3's mixtures, such as Qwen3-30B-A3B",
    differences="Qwen3's norms, experts and a router",
    # transformers' default of num_key_value_heads is a number, not num_attention_heads.
    more_sizes=("num_key_value_heads", "num_experts_per_tok"),
    layer_tensors=decoder.NORMS | decoder.ATTENTION | decoder.HEAD_NORMS | EXPERTS,
    coupled=(decoder.HEADS, CHANNELS),
    windows=windows,
    experts=ExpertBlock(on_disk="mlp", in_memory="mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    # Every layer has experts.
    fixed={"decoder_sparse_step": 1, "mlp_only_layers": []},
)
