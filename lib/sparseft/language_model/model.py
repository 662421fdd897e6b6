"""A prepared checkpoint as a model in memory."""

from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import ROTARY_BUFFER
from sparseft.checkpoints.shapes import DTYPES
from sparseft.errors import InputError
from sparseft.storage.reading import read_json

_TRANSFORMERS_4 = transformers.__version__.startswith("4.")


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return the checkpoint's model in its own dtype, in evaluation mode, and its tokenizer; only local files are read.

    Raises InputError where tensors are missing, left over or of another shape, because transformers would draw them at
    random; where the model has another dtype than its files; for a tokenizer without an end-of-sequence token; and as
    `Checkpoint` does."""
    checkpoint = Checkpoint(folder)
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
    _check_dtype(checkpoint, model.dtype)
    return model.to(device).eval(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer. Raises InputError where it has no token to end an answer with."""
    tokenizer = _tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-sequence token", "name eos_token in its configuration")
    return tokenizer


def _check_dtype(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Raise InputError where a tensor of the files has another dtype than the model that was made of them."""
    name = str(dtype).removeprefix("torch.")
    others = [
        tensor
        for tensor in checkpoint.tensors.values()
        if tensor.dtype != DTYPES.get(name) and not ROTARY_BUFFER.search(tensor.name)
    ]
    if others:
        what = (
            f"{checkpoint.folder}: {others[0].name} is {others[0].dtype}, and its config.json makes a model in {name}"
        )
        raise InputError(what, "prepare the model with prepare_model.py, which writes one dtype")


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
