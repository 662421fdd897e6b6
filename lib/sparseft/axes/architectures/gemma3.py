"""Describe the text models of Gemma 3 (Gemma Team 2025, arXiv 2503.19786).

It is LLaMA's decoder with four norms per layer, norms of the queries and keys, and two kinds of layers. Most layers see
only a window, and have rotary angles of their own. Every sixth layer sees all tokens. The embeddings are the output
head.
"""

from dataclasses import replace

from sparseft.axes.architectures import decoder
from sparseft.axes.architectures.architecture import FULL, SLIDING
from sparseft.common.errors import InputError

NORMS = decoder.NORMS | decoder.norms("hidden_size", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def windows(config: dict) -> list[int | None]:
    """Return the window of each decoder layer. `layer_types` or `sliding_window_pattern` says which layers have one."""
    # Without `layer_types`, one layer in this number of layers has no window.
    pattern = config.get("sliding_window_pattern", 6)
    layers = range(config["num_hidden_layers"])
    types = config.get("layer_types") or [SLIDING if (number + 1) % pattern else FULL for number in layers]
    return [config["sliding_window"] if types[number] == SLIDING else None for number in layers]


def smaller_config(config: dict, units: dict[str, int]) -> dict:
    """Return the keys of config.json that change. Raises InputError if the heads do not divide hidden_size.

    transformers refuses such a configuration, even with an explicit head_dim."""
    changes = decoder.smaller_config(config, units)
    heads = changes["num_attention_heads"]
    if config["hidden_size"] % heads:
        raise InputError(
            f"a smaller Gemma 3 would have {heads} query heads, which do not divide its hidden_size"
            f" {config['hidden_size']}",
            "keep the masked checkpoint, or use a mask of another sparsity",
        )
    return changes


GEMMA3 = replace(
    decoder.DECODER,
    class_name="Gemma3ForCausalLM",
    models="Gemma 3, text models only",
    differences="norms of the queries and of the keys, two more norms per layer, a sliding window in most layers",
    # transformers' defaults of these, and of head_dim, are numbers, which do not depend on the other sizes.
    more_sizes=("num_key_value_heads", "sliding_window"),
    layer_tensors=NORMS | decoder.ATTENTION | decoder.HEAD_NORMS | decoder.MLP,
    windows=windows,
    smaller_config=smaller_config,
    is_tied=True,
    # Every token sees only earlier ones.
    fixed={"use_bidirectional_attention": False},
)
