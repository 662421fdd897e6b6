"""Name the files and tensors of an adapter as PEFT does, and compute its digest.

    adapter/adapter_model.safetensors   base_model.model.{layer}.lora_A.weight  (r, in)
                                        base_model.model.{layer}.lora_B.weight  (out, r)
    adapter/adapter_config.json         r, alpha, and which layers have matrices

Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

import hashlib
from pathlib import Path

from sparseft.storage.hashes import sha256

# The adapter's folder in the folder of a run.
ADAPTER = "adapter"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (WEIGHTS, ADAPTER_CONFIG)

_PREFIX = "base_model.model."


def factor_names(layer: str) -> tuple[str, str]:
    """Return the names of a layer's two tensors, A (r, in) and B (out, r)."""
    return f"{_PREFIX}{layer}.lora_A.weight", f"{_PREFIX}{layer}.lora_B.weight"


def layer_of(tensor_name: str) -> str:
    """Return the layer of a name that `factor_names` returns. Of any other name the result has no meaning."""
    return tensor_name.removeprefix(_PREFIX).rpartition(".lora_")[0]


def adapter_digest(folder: Path) -> str:
    """Return the digest of an adapter folder as it is now."""
    return joint_digest(sha256(folder / WEIGHTS), sha256(folder / ADAPTER_CONFIG))


def joint_digest(weights: str, configuration: str) -> str:
    """Return the digest of an adapter from the sha256 of its two files. Both count, because the configuration holds r and alpha."""
    return hashlib.sha256(f"{weights}\n{configuration}".encode()).hexdigest()
