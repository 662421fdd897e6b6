"""Describe LLaMA (Touvron et al. 2023, arXiv 2302.13971)."""

from dataclasses import replace

from sparseft.axes.architectures import decoder

# Without a window, Mistral's decoder computes what LLaMA's does without biases, and no prunable layer has a bias.
# transformers loads a Mistral with `layer_types`, even null, as a Ministral.
_AS_MISTRAL: dict[str, object] = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
_AS_MISTRAL |= {"sliding_window": None, "layer_types": ...}


def smaller_config(config: dict, units: dict[str, int]) -> dict:
    """Return the keys of config.json that change. The model becomes a Mistral if its heads do not divide hidden_size.

    transformers refuses such a LlamaConfig, even with an explicit head_dim."""
    changes = decoder.smaller_config(config, units)
    is_uneven = config["hidden_size"] % changes["num_attention_heads"]
    return changes | (_AS_MISTRAL if is_uneven else {})


LLAMA = replace(
    decoder.DECODER,
    class_name="LlamaForCausalLM",
    models="LLaMA 1 to 3.3, SmolLM2 and others that use LLaMA's class",
    smaller_config=smaller_config,
    modelzoo_names=decoder.MODELZOO_NAMES,
)
