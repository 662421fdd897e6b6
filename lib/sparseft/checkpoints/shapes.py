"""Compute the tensors of a checkpoint from its config.json: names as on disk, and shapes."""

from sparseft.checkpoints.layers import attention_heads, check_architecture
from sparseft.errors import InputError

Shapes = dict[str, tuple[int, ...]]


DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def tensor_shapes(config: dict, place: str) -> Shapes:
    """Tensor -> shape, of the checkpoint that `config` describes. Raises InputError, naming `place`, where it cannot."""
    check_architecture(config, place)
    mixtral = ("num_local_experts", "num_experts_per_tok") if config["architectures"][0] == "MixtralForCausalLM" else ()
    optional = [name for name in ("num_key_value_heads", "head_dim") if config.get(name) is not None]
    for name in (*_SIZES, *mixtral, *optional):
        if type(config.get(name)) is not int or config[name] < 1:
            what = f"{name} is {config[name]!r}" if name in config else f"it lacks {name}"
            raise InputError(f"{place}: config.json is damaged: {what}", "give the model's own config.json")
    return _tensor_shapes(config)


def _tensor_shapes(config: dict) -> Shapes:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    heads, kv_heads, head_dim = attention_heads(config)
    q, kv = heads * head_dim, kv_heads * head_dim
    layer = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        **_mlp_shapes(config),
    }
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _mlp_shapes(config: dict) -> Shapes:
    up = (config["intermediate_size"], config["hidden_size"])
    if config["architectures"][0] != "MixtralForCausalLM":
        return {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": up[::-1]}
    experts = range(config["num_local_experts"])
    matrices = {"w1": up, "w2": up[::-1], "w3": up}
    return {"block_sparse_moe.gate": (len(experts), config["hidden_size"])} | {
        f"block_sparse_moe.experts.{expert}.{name}": shape for expert in experts for name, shape in matrices.items()
    }
