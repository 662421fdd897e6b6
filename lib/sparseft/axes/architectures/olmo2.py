"""Describe OLMo 2 (OLMo Team 2024, arXiv 2501.00656): LLaMA's decoder with norms after the blocks, and norms over all
heads.

The norm of the queries divides them by their root mean square over all query heads. The norm of the keys does the same
over all key heads. So the other heads would change if a head were left out.
"""

from dataclasses import replace

from sparseft.axes.architectures import decoder
from sparseft.axes.architectures.architecture import attention_heads
from sparseft.common.errors import InputError

NORMS = decoder.norms("hidden_size", "post_attention_layernorm", "post_feedforward_layernorm")
NORMS_OF_ALL_HEADS = decoder.norms("queries", "self_attn.q_norm") | decoder.norms("keys", "self_attn.k_norm")


def smaller_config(config: dict, units: dict[str, int]) -> dict:
    """Return the keys of config.json that change. Raises InputError if a head would be left out."""
    heads = attention_heads(config)
    kept = units["num_key_value_heads"]
    if kept < heads.key_value:
        raise InputError(
            f"the mask leaves {kept} of {heads.key_value} key-value heads, but OLMo 2 has norms over all heads"
            " together",
            "keep the masked checkpoint, or use a mask that prunes no head",
        )
    return decoder.smaller_config(config, units)


OLMO2 = replace(
    decoder.DECODER,
    class_name="Olmo2ForCausalLM",
    models="OLMo 2",
    differences="norms after the blocks instead of before them, norms over all heads",
    layer_tensors=NORMS | decoder.ATTENTION | NORMS_OF_ALL_HEADS | decoder.MLP,
    smaller_config=smaller_config,
)
