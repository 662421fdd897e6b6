"""The `model:` section of a ModelZoo trainer configuration, from a Hugging Face config.json.

The keys are those of github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/models/nlp/gpt2/gpt2_model.py. It is
also the model of LLaMA, Mistral and Mixtral. Earlier releases know these keys too. Release 2.6 refuses two more that the
converter writes: norm_first and use_ff_layer1_dropout.
"""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from sparseft.architectures import find_architecture
from sparseft.errors import InputError

FIXED = {
    "position_embedding_type": "rotary",
    "nonlinearity": "swiglu",
    "norm_type": "rmsnorm",
    "attention_type": "scaled_dot_product",
    "use_bias_in_output": False,
    "use_ffn_bias": False,
    "use_ffn_bias_in_attention": False,
    "use_projection_bias_in_attention": False,
    "embedding_dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "dropout_rate": 0.0,
    "loss_scaling": "num_tokens",
}


def model_section(folder: Path) -> dict:
    """Return the `model:` section of the model in a Hugging Face folder.

    Raises InputError for an activation or a scaling of the rotary embedding that ModelZoo does not have."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    rope = config.rope_parameters
    for name, value, known in (("hidden_act", config.hidden_act, "silu"), ("rope_type", rope["rope_type"], "default")):
        if value != known:
            raise InputError(
                f"{folder / 'config.json'}: {name} {value} cannot be translated", f"use a model with {name} {known}"
            )
    return {
        "name": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "filter_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "layer_norm_epsilon": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "rope_theta": rope["rope_theta"],
        "share_embedding_weights": config.tie_word_embeddings,
        **_attention(config),
        **_experts(config),
        **FIXED,
    }


def _attention(config: PretrainedConfig) -> dict:
    """Return the keys of the attention."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    keys = {"rotary_dim": head_dim, "attention_module": "aiayn_attention"}
    if head_dim * config.num_attention_heads != config.hidden_size:
        keys["attention_inner_dim"] = head_dim * config.num_attention_heads
    if config.num_key_value_heads != config.num_attention_heads:
        keys["attention_module"] = "multiquery_attention"
        keys["extra_attention_params"] = {"num_kv_groups": config.num_key_value_heads}
    if window := getattr(config, "sliding_window", None):
        keys["attention_sliding_window_length"] = window
    return keys


def _experts(config: PretrainedConfig) -> dict:
    """Return the keys of a mixture of experts; none for another model."""
    if find_architecture(config.architectures, config.name_or_path).experts is None:
        return {}
    return {
        "moe": {
            "num_experts": config.num_local_experts,
            "top_k": config.num_experts_per_tok,
            # transformers adds this loss only if the router's logits are part of the output.
            "load_balancing_loss_coef": config.router_aux_loss_coef if config.output_router_logits else 0.0,
            # The implementation with stacked experts, as in checkpoints/modelzoo_checkpoint.py. Some releases have another default.
            "moe_implementation": "optimized",
        }
    }
