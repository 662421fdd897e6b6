"""A prepared checkpoint as a model in memory."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sparseft.errors import InputError


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The checkpoint's model in its own dtype, in evaluation mode, and its tokenizer; local files alone.

    Raises InputError where tensors are missing, left over or of another shape: transformers would draw them at random."""
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    faults = [f"{kind} {sorted(map(str, names))[0]}" for kind, names in loading.items() if names]
    if faults:
        raise InputError(
            f"{folder}: does not fit its config.json: {', '.join(faults)}", "repair or replace the checkpoint"
        )
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
