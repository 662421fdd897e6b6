"""A prepared checkpoint as a model in memory."""

from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from sparseft.errors import InputError
from sparseft.files import read_json

_TRANSFORMERS_4 = transformers.__version__.startswith("4.")


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The checkpoint's model in its own dtype, in evaluation mode, and its tokenizer; local files alone.

    Raises InputError where tensors are missing, left over or of another shape: transformers would draw them at random;
    and for a tokenizer that has no token to end an answer with, or to pad with."""
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder,
        config=_config(folder),
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    faults = [f"{kind} {sorted(map(str, names))[0]}" for kind, names in loading.items() if names]
    if faults:
        raise InputError(
            f"{folder}: does not fit its config.json: {', '.join(faults)}", "repair or replace the checkpoint"
        )
    return model.to(device).eval(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer. Raises InputError where it has no token to end an answer with."""
    tokenizer = _tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-sequence token", "name eos_token in its configuration")
    return tokenizer


def _config(folder: Path) -> PretrainedConfig:
    """config.json. What transformers 5 writes as rope_parameters, transformers 4 would pass over in silence."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rope = getattr(config, "rope_parameters", None)
    if _TRANSFORMERS_4 and rope:
        rest = {key: value for key, value in rope.items() if key != "rope_theta"}
        config.rope_theta, config.rope_scaling = rope["rope_theta"], rest if rest["rope_type"] != "default" else None
    return config


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, whose class transformers 5 calls TokenizersBackend and transformers 4 PreTrainedTokenizerFast."""
    kind = AutoTokenizer
    if _TRANSFORMERS_4 and read_json(folder / "tokenizer_config.json").get("tokenizer_class") == "TokenizersBackend":
        kind = transformers.PreTrainedTokenizerFast
    return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
