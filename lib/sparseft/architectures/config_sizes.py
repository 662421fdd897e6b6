"""Read the sizes of a decoder from its config.json, whose optional keys have defaults."""

from typing import NamedTuple

# A tensor's shape, in words: "queries", "keys", or the key of config.json that holds the number.
Words = tuple[str, ...]

# A key of config.json -> the name that it has in files of other releases of transformers.
_OTHER_NAMES = {"num_local_experts": "num_experts"}


class AttentionHeads(NamedTuple):
    """Count the query heads and the key-value heads of a layer. `size` is the number of rows of one head."""

    query: int
    key_value: int
    size: int


def attention_heads(config: dict) -> AttentionHeads:
    """Return the attention heads that a config.json describes. It may leave out their size and the key-value heads."""
    query = config["num_attention_heads"]
    key_value = config.get("num_key_value_heads") or query
    return AttentionHeads(query, key_value, config.get("head_dim") or config["hidden_size"] // query)


def size_of(word: str, config: dict) -> int:
    """Return the number that a word of a shape stands for, in the model that `config` describes."""
    heads = attention_heads(config)
    derived = {
        "queries": heads.query * heads.size,
        "keys": heads.key_value * heads.size,
        "num_key_value_heads": heads.key_value,
    }
    return derived[word] if word in derived else stated(word, config)


def stated(key: str, config: dict) -> object:
    """Return the value of a key of config.json, which may have another name there; None if it is missing."""
    return config.get(key, config.get(_OTHER_NAMES.get(key)))
