"""Sparse fine-tuning of LLaMA, Mistral and Mixtral: masks, masked LoRA, the sparse merge and its proof."""

import os
import sys

__version__ = "0.2.0"

if not sys.stderr.isatty():  # before tqdm is imported by anyone: bars are for terminals, logs get sparse lines
    os.environ.setdefault("TQDM_DISABLE", "1")
