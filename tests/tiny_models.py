"""Tiny models of the three architectures, made here: 2 layers, random weights, a byte-level tokenizer."""

import copy
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

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
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=64)),
    "mixtral": (MixtralForCausalLM, MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)),
}
# It writes each message as <s>ROLE, a line break, its content and </s>.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message.role + '\\n' + message.content + '</s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
PRUNABLE_LAYERS = {"llama": 14, "mistral": 14, "mixtral": 32}  # 2 x 7; 2 x (4 + 4 experts x 3)


def save_tiny(
    name: str, folder: Path, dtype: torch.dtype = torch.bfloat16, changes: dict | None = None, **options
) -> Path:
    """Write a tiny model and its tokenizer to `folder`; `changes`: keys of its configuration that differ."""
    kind, config = MODELS[name]
    config = copy.deepcopy(config)
    config.update(changes or {})
    torch.manual_seed(0)
    kind(config).to(dtype).save_pretrained(folder, **options)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<unk>", "<s>", "</s>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def append_token(folder: Path, token: str = "</s>") -> Path:
    """Make the tokenizer in `folder` end every text with `token`."""
    return _add_token(folder, token, f"$A {token}")


def prepend_token(folder: Path, token: str = "<s>") -> Path:
    """Make the tokenizer in `folder` begin every text with `token`."""
    return _add_token(folder, token, f"{token} $A")


def _add_token(folder: Path, token: str, template: str) -> Path:
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    special = [(token, tokenizer.token_to_id(token))]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(path)
    return folder


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
