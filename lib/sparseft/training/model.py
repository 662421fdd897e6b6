"""A prepared checkpoint as a model in memory."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The checkpoint's model in its own dtype, in evaluation mode, and its tokenizer; local files alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
