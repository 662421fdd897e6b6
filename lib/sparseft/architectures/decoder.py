"""Hold what LLaMA, Mistral and Mixtral have in common, so that a similar architecture is a short file.

    attention  o(softmax(q x (k x)^T) (v x))   a unit: a key-value head, with its query heads
    MLP        down(act(gate x) * (up x))      a unit: a channel

Removing a unit removes its rows of q, k and v and its columns of o, or its row of gate and up and its column of down.
Source: LLM-Pruner (arXiv 2305.11627), section 3.1.
"""

from sparseft.architectures.architecture import Coupled
from sparseft.architectures.config_sizes import attention_heads

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")

# Tensors outside the decoder layers.
OUTER = {
    "model.embed_tokens": ("vocab_size", "hidden_size"),
    "model.norm": ("hidden_size",),
    "lm_head": ("vocab_size", "hidden_size"),
}

# Tensors of one decoder layer. A shape is in words: a key of config.json, or "queries" or "keys" (sizes.py).
NORMS = {
    "input_layernorm": ("hidden_size",),
    "post_attention_layernorm": ("hidden_size",),
}
ATTENTION = {
    "self_attn.q_proj": ("queries", "hidden_size"),
    "self_attn.k_proj": ("keys", "hidden_size"),
    "self_attn.v_proj": ("keys", "hidden_size"),
    "self_attn.o_proj": ("hidden_size", "queries"),
}
MLP = {
    "mlp.gate_proj": ("intermediate_size", "hidden_size"),
    "mlp.up_proj": ("intermediate_size", "hidden_size"),
    "mlp.down_proj": ("hidden_size", "intermediate_size"),
}

# The prunable matrices of a decoder layer, and what is removed from them together.
HEADS = Coupled("self_attn", "num_key_value_heads", rows=("q_proj", "k_proj", "v_proj"), columns=("o_proj",))
CHANNELS = Coupled("mlp", "intermediate_size", rows=("gate_proj", "up_proj"), columns=("down_proj",))


def activation_bytes(config: dict, width: int) -> int:
    """Return the bytes that one decoder layer keeps per token for its backward under LoRA. A weight has `width` bytes."""
    return layer_bytes(config, width, mlp_activations(config))


def mlp_activations(config: dict) -> int:
    """Return how many numbers an MLP keeps per token: the outputs of gate and up, the activation, and their product."""
    return 4 * config["intermediate_size"]


def layer_bytes(config: dict, width: int, mlp: int) -> int:
    """Return the bytes that a decoder layer keeps per token, if its MLP keeps `mlp` numbers. It is an estimate.

    Attention keeps the inputs of its projections, q, k, v and its output. Both norms keep their inputs in fp32."""
    hidden = config["hidden_size"]
    heads = attention_heads(config)
    attention = (3 * heads.query + 2 * heads.key_value) * heads.size
    return width * (2 * hidden + attention + mlp) + 2 * 4 * hidden


def smaller_config(config: dict, units: dict[str, int]) -> dict:
    """Return the keys of config.json that change if each layer keeps only `units`, and their new values.

    head_dim becomes explicit, because it is no longer hidden_size / num_attention_heads."""
    heads = attention_heads(config)
    return {
        "intermediate_size": units["intermediate_size"],
        "num_attention_heads": heads.query // heads.key_value * units["num_key_value_heads"],
        "num_key_value_heads": units["num_key_value_heads"],
        "head_dim": heads.size,
    }
