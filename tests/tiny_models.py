"""Tiny models of all architectures, made here: 2 layers, random weights, a byte-level tokenizer."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from sparseft.models.language_model.weights import unfuse_experts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 259,
    "initializer_range": 0.2,  # so that logits differ by more than rounding
}
# A window from the layer `max_window_layers` on.
WINDOW = {"use_sliding_window": True, "sliding_window": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA = {
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 32,
    "final_logit_softcapping": 6.0,
}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}


def described(name: str, config: str = "", **settings: object) -> tuple[type, transformers.PretrainedConfig]:
    """Return the class and the configuration of a tiny model, by the name of its classes in transformers."""
    configuration = getattr(transformers, config or f"{name}Config")(**SIZES, **settings)
    return getattr(transformers, f"{name}ForCausalLM"), configuration


# Multipliers, caps, biases and windows are not transformers' defaults, so that it shows if one is lost.
MODELS = {
    "llama": described("Llama", tie_word_embeddings=True),
    "mistral": described("Mistral", sliding_window=64),
    "mixtral": described("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    # Only the second layer has the window.
    "qwen2": described("Qwen2", **WINDOW, max_window_layers=1),
    "qwen3": described("Qwen3", **WINDOW, max_window_layers=1, head_dim=16),
    # The first layer has a window, and both have rotary angles of their own.
    "gemma3": described("Gemma3", "Gemma3TextConfig", head_dim=16, sliding_window=64, **GEMMA),
    "olmo2": described("Olmo2"),
    "qwen3_moe": described("Qwen3Moe", **WINDOW, head_dim=16, **EXPERTS),
    "granite": described("Granite", tie_word_embeddings=True, **MULTIPLIERS),
}
# Most tests run on these. tests/axes/architectures/test_stages.py takes every model through every stage.
TYPICAL = ("llama", "mistral", "mixtral")
# The scaled rotary angles of LLaMA 3.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# It writes each message as <s>ROLE, a line break, its content and </s>.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message.role + '\\n' + message.content + '</s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
# In each of two layers: seven projections, or four and three of each of four experts.
PRUNABLE_LAYERS = {name: 32 if name in ("mixtral", "qwen3_moe") else 14 for name in MODELS}


def save_tiny(
    name: str, folder: Path, dtype: torch.dtype = torch.bfloat16, changes: dict | None = None, **options
) -> Path:
    """Write a tiny model and its tokenizer to `folder`; `changes`: keys of its configuration that differ."""
    kind, config = MODELS[name]
    config = copy.deepcopy(config)
    config.update(changes or {})
    torch.manual_seed(0)
    model = kind(config)
    for parameter in _attention_vectors(model):
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.to(dtype).save_pretrained(folder, **options)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<unk>", "<s>", "</s>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def _attention_vectors(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the biases and norms of the attention. transformers makes them 0 and 1, which would hide that one is
    lost."""
    return [parameter for name, parameter in model.named_parameters() if ".self_attn." in name and parameter.ndim == 1]


@contextmanager
def edited(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of a checkpoint of one file, and write them again after the block."""
    tensors = load_file(folder / "model.safetensors")
    yield tensors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def loaded(folder: Path) -> torch.nn.Module:
    """Return stock transformers' model of a folder, which must find every tensor in its shape and no other."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval()


def stock(folder: Path) -> torch.nn.Module:
    """Return stock transformers' model of a folder, in which every expert is a module."""
    model = loaded(folder)
    unfuse_experts(model)
    return model


def fill_template(template: str, folder: Path) -> Path:
    """Make the tokenizer in `folder` put every text into a template, as $A."""
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    special = [(token, tokenizer.token_to_id(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(path)
    return folder


append_token, prepend_token = partial(fill_template, "$A </s>"), partial(fill_template, "<s> $A")


def rewrite_text(folder: Path, old: str, new: str) -> Path:
    """Make the tokenizer in `folder` read `new` for every `old`."""
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Replace(old, new)
    tokenizer.save(path)
    return folder


def change_json(path: Path, **values: object) -> None:
    """Set keys of a JSON file; None takes one away."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
