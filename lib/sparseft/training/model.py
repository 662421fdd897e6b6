"""A prepared checkpoint as a model in memory."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sparseft.errors import InputError


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The checkpoint's model in its own dtype, in evaluation mode, and its tokenizer; local files alone.

    Raises InputError where tensors are missing, left over or of another shape: transformers would draw them at random;
    and for a tokenizer that has no token to end an answer with, or to pad with."""
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    faults = [f"{kind} {sorted(map(str, names))[0]}" for kind, names in loading.items() if names]
    if faults:
        raise InputError(
            f"{folder}: does not fit its config.json: {', '.join(faults)}", "repair or replace the checkpoint"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-sequence token", "name eos_token in its configuration")
    return model.to(device).eval(), tokenizer
