"""Hold what LLaMA and its relatives have in common, so that a similar architecture is a short file.

    attention  o(softmax(q x (k x)^T) (v x))   a unit: a key-value head, with its query heads
    MLP        down(act(gate x) * (up x))      a unit: a channel

Removing a unit removes its rows of q, k and v and its columns of o, or its row of gate and up and its column of down.
Source: LLM-Pruner (arXiv 2305.11627), section 3.1.

A removed unit meets zero columns of o or down. So whatever its rows compute adds 0, the biases of its rows included:
those of q, k and v of a removed head, as Qwen2 has them. A mask leaves these biases as they are, and a smaller model
drops them.
"""

from sparseft.axes.architectures.architecture import (
    FULL,
    KEY_VALUE_HEADS,
    SLIDING,
    Architecture,
    Coupled,
    Words,
    attention_heads,
)


def norms(size: str, *names: str) -> dict[str, Words]:
    """Return the weights of norms over `size` numbers, with their shape."""
    return {f"{name}.weight": (size,) for name in names}


# Tensors of one decoder layer. A shape is in words: a key of config.json, or "queries" or "keys" (architecture.py).
NORMS = norms("hidden_size", "input_layernorm", "post_attention_layernorm")
ATTENTION: dict[str, Words] = {
    "self_attn.q_proj.weight": ("queries", "hidden_size"),
    "self_attn.k_proj.weight": ("keys", "hidden_size"),
    "self_attn.v_proj.weight": ("keys", "hidden_size"),
    "self_attn.o_proj.weight": ("hidden_size", "queries"),
}
# Qwen2 has these.
QKV_BIASES: dict[str, Words] = {
    "self_attn.q_proj.bias": ("queries",),
    "self_attn.k_proj.bias": ("keys",),
    "self_attn.v_proj.bias": ("keys",),
}
# Qwen3 has these. All heads share one norm of the queries and one of the keys.
HEAD_NORMS = norms("head_dim", "self_attn.q_norm", "self_attn.k_norm")
MLP: dict[str, Words] = {
    "mlp.gate_proj.weight": ("intermediate_size", "hidden_size"),
    "mlp.up_proj.weight": ("intermediate_size", "hidden_size"),
    "mlp.down_proj.weight": ("hidden_size", "intermediate_size"),
}

# The prunable matrices of a decoder layer, and what is removed from them together.
HEADS = Coupled(
    "self_attn",
    KEY_VALUE_HEADS,
    rows=("q_proj", "k_proj", "v_proj"),
    columns=("o_proj",),
    title="key-value heads",
)
CHANNELS = Coupled(
    "mlp",
    "intermediate_size",
    rows=("gate_proj", "up_proj"),
    columns=("down_proj",),
    title="channels",
    # On a CPU with AVX512-BF16, llama.cpp's fast products of bfloat16 need rows of a multiple of 32 weights
    # (ggml-cpu/llamafile/sgemm.cpp; measured in docs/results.md), and a block of q8_0 has 32 weights. Tensor cores and
    # the grouped products of experts in transformers need rows of whole 16 bytes.
    multiple=32,
)

# Matrices whose rows Cerebras ModelZoo interleaves within each head, because its rotary embedding pairs neighbouring
# rows.
ROTATED = ("self_attn.q_proj", "self_attn.k_proj")

# The names of Hugging Face's tensors -> those of Cerebras ModelZoo, releases 2.1 to 2.10. Names of a decoder layer are
# those within the layer, in ModelZoo `transformer_decoder.layers.N`. The experts of a layer are stacked in one
# parameter on axis 1: (out, experts, in). ModelZoo leaves its leading "model." to trainer checkpoints.
# Source: github.com/Cerebras/modelzoo, Release_2.10.0,
# src/cerebras/modelzoo/tools/checkpoint_converters/{llama,mixtral}.py.
MODELZOO_NAMES = {
    "model.embed_tokens": "embedding_layer.word_embeddings.weight",
    "model.norm": "transformer_decoder.norm.weight",
    "lm_head": "lm_head.weight",
    "input_layernorm": "norm1.weight",
    "post_attention_layernorm": "norm3.weight",
    "self_attn.q_proj": "self_attn.proj_q_dense_layer.weight",
    "self_attn.k_proj": "self_attn.proj_k_dense_layer.weight",
    "self_attn.v_proj": "self_attn.proj_v_dense_layer.weight",
    "self_attn.o_proj": "self_attn.proj_output_dense_layer.weight",
    "mlp.gate_proj": "ffn.ffn.0.linear_layer_for_glu.weight",
    "mlp.up_proj": "ffn.ffn.0.linear_layer.weight",
    "mlp.down_proj": "ffn.ffn.1.linear_layer.weight",
    "block_sparse_moe.gate": "ffn.gate.weight",
    "block_sparse_moe.experts.{expert}.w1": "ffn.experts.fused_ffns.0.linear_layer_for_glu.expert_weights",
    "block_sparse_moe.experts.{expert}.w3": "ffn.experts.fused_ffns.0.linear_layer.expert_weights",
    "block_sparse_moe.experts.{expert}.w2": "ffn.experts.fused_ffns.1.linear_layer.expert_weights",
}


def no_windows(config: dict) -> list[int | None]:
    """Return the window of each decoder layer if a token always sees all tokens before it.

    A config.json may hold `sliding_window`, for example if it was a Mistral's, but the model's code ignores it."""
    return [None] * config["num_hidden_layers"]


def same_windows(config: dict) -> list[int | None]:
    """Return the window of each decoder layer if all have the same one, `sliding_window`."""
    return [config.get("sliding_window")] * config["num_hidden_layers"]


def windows_by_layer(config: dict) -> list[int | None]:
    """Return the window of each decoder layer if `layer_types` names the layers that have one.

    Without that key, the layers from `max_window_layers` on have it. Without `use_sliding_window`, none has."""
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    layers = range(config["num_hidden_layers"])
    first = config.get("max_window_layers", 28)  # transformers' default
    types = config.get("layer_types") or [SLIDING if number >= first else FULL for number in layers]
    return [window if types[number] == SLIDING else None for number in layers]


def smaller_config(config: dict, units: dict[str, int]) -> dict:
    """Return the keys of config.json that change if each layer keeps only `units`, and their new values.

    head_dim becomes explicit, because it is no longer hidden_size / num_attention_heads."""
    heads = attention_heads(config)
    queries = heads.query // heads.key_value * units["num_key_value_heads"]
    return {**units, "num_attention_heads": queries, "head_dim": heads.size}


# LLaMA's decoder. An architecture that is similar replaces what differs.
DECODER = Architecture(
    class_name="",
    models="",
    differences="",
    layer_tensors=NORMS | ATTENTION | MLP,
    coupled=(HEADS, CHANNELS),
    windows=no_windows,
    smaller_config=smaller_config,
)
