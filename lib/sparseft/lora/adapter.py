"""Adapter files as PEFT writes them: adapter_model.safetensors and adapter_config.json.

Keys are `base_model.model.{layer}.lora_A.weight` (r, in) and `.lora_B.weight` (out, r), fp32. Source:
github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md. The configuration carries, under `sparseft`,
the mode and the sha256 of the mask: stock PEFT would run and merge every adapter as if the mask were all ones.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sparseft.errors import InputError
from sparseft.storage.files import (
    ADAPTER_CONFIG,
    ADAPTER_LIMIT,
    JSON_LIMIT,
    WEIGHTS,
    atomic_folder,
    joint_digest,
    parse_json,
    read_bytes,
    read_text,
    sha256_of_text,
    write_json,
)
from sparseft.storage.record import check_adapter
from sparseft.study.config import Training
from sparseft.study.grid import PROJECTIONS, Run

PREFIX = "base_model.model."
# What a PEFT configuration may set without changing what A and B mean; any other key that is set is refused.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision", "sparseft", "target_modules",
    "task_type",
}  # fmt: skip


def write_adapter(
    folder: Path, matrices: Mapping[str, tuple[Tensor, Tensor]], settings: Training, *, base: str, sparseft: dict
) -> None:
    """Write an adapter folder; `matrices`: layer -> (A (r, in), B (out, r))."""
    tensors = {}
    for layer, (A, B) in matrices.items():
        for name, matrix in (("A", A), ("B", B)):
            tensors[f"{PREFIX}{layer}.lora_{name}.weight"] = matrix.detach().float().cpu().contiguous()
    used = {layer.rpartition(".")[2] for layer in matrices}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.lora_r,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [name for name in PROJECTIONS if name in used],
        "sparseft": sparseft,
    }
    with atomic_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        write_json(temporary / ADAPTER_CONFIG, config)


class Adapter(NamedTuple):
    """Hold layer -> (A, B) in fp32, s = alpha / r, the configuration, and the digest of the bytes that they were read from."""

    pairs: dict[str, tuple[Tensor, Tensor]]
    scale: float
    config: dict
    digest: str


def read_adapter(folder: Path) -> Adapter:
    """Return an adapter, each of whose files is read once.

    Raises InputError if a file is missing or damaged, if the adapter is no plain LoRA adapter, or if it is not the one that
    the train.json beside it records."""
    mend = "train the run again"
    text = read_text(folder / ADAPTER_CONFIG, JSON_LIMIT, mend)
    try:
        weights = read_bytes(folder / WEIGHTS, ADAPTER_LIMIT)
    except FileNotFoundError:
        raise InputError(f"{folder / WEIGHTS}: no such file", mend) from None
    digest = joint_digest(hashlib.sha256(weights).hexdigest(), sha256_of_text(text))
    check_adapter(folder, digest)
    config = parse_json(text, folder / ADAPTER_CONFIG, mend)
    if not _plain(config):
        raise InputError(
            f"{folder}: not a plain LoRA adapter",
            "use one r and one alpha for all layers, no bias and no variant of LoRA",
        )
    _check_names(folder, config)
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS}: {error}", mend) from None
    layers = sorted({key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors})
    keys = {layer: [f"{PREFIX}{layer}.lora_{x}.weight" for x in "AB"] for layer in layers}
    if not tensors or tensors.keys() != {key for pair in keys.values() for key in pair}:
        raise InputError(f"{folder / WEIGHTS}: holds something else than pairs of lora_A and lora_B", mend)
    pairs = {layer: tuple(tensors[key].float() for key in keys[layer]) for layer in layers}
    if any(A.ndim != 2 or B.ndim != 2 or not A.shape[0] == B.shape[1] == config["r"] for A, B in pairs.values()):
        raise InputError(f"{folder / WEIGHTS}: matrices of another rank than r {config['r']}", mend)
    if not all(torch.isfinite(matrix).all() for pair in pairs.values() for matrix in pair):
        raise InputError(f"{folder / WEIGHTS}: holds NaN or infinity", "train again with a lower learning rate")
    return Adapter(pairs, config["lora_alpha"] / config["r"], config, digest)


def check_origin(folder: Path, config: dict, run: Run) -> None:
    """Raise InputError if an adapter's configuration names another run or mode than `run`; stock PEFT names none."""
    recorded = config.get("sparseft", {})
    for name, own in (("run_id", run.id), ("mode", run.mode)):
        if recorded.get(name, own) != own:
            raise InputError(f"{folder}: its {name} is {recorded[name]}, not {own}", "give the run's own adapter")


def check_layers(folder: Path, config: dict, found: Iterable[str], layers: Iterable[str]) -> None:
    """Raise InputError unless an adapter has matrices for exactly those of a model's `layers` that its configuration names."""
    named = {layer for layer in layers if _is_target(layer, config)}
    missing, unnamed = sorted(named - set(found)), sorted(set(found) - named)
    if missing:
        what = f"no matrices for {len(missing)} layers that its target_modules names (first: {missing[0]})"
        raise InputError(f"{folder}: {what}", "train the run again")
    if unnamed:
        what = f"matrices for {len(unnamed)} layers that its target_modules does not name (first: {unnamed[0]})"
        raise InputError(f"{folder}: {what}", "train the run again")


def _is_target(layer: str, config: dict) -> bool:
    """Return whether PEFT puts matrices on a layer: check_target_module_exists of peft/tuners/tuners_utils.py."""
    if _is_among(layer, config.get("exclude_modules") or []) or not _is_among(layer, config["target_modules"]):
        return False
    numbers = config.get("layers_to_transform")
    if layer in config["target_modules"] or numbers in (None, []):
        return True
    places = [re.escape(name) for name in _list_of(config.get("layers_pattern") or [])] or [r"[^.]*"]
    found = re.match(rf".*?\.(?:{'|'.join(places)})\.([0-9]+)\.", layer)
    return found is not None and int(found[1]) in _list_of(numbers)


def _is_among(layer: str, names: list[str]) -> bool:
    """Return whether a layer, or the end of its name, is one of the names."""
    return layer in names or layer.endswith(tuple(f".{name}" for name in names))


def _list_of(value: object) -> list:
    """Return a list as it is, and a single value as a list of one."""
    return value if isinstance(value, list) else [value]


def _check_names(folder: Path, config: dict) -> None:
    """Raise InputError if what chooses the layers is not a list of names: matching a stranger's pattern might never end."""
    for key, kind in (
        ("target_modules", str),
        ("exclude_modules", str),
        ("layers_pattern", str),
        ("layers_to_transform", int),
    ):
        value = config.get(key)
        if value is None and key != "target_modules":
            continue
        items = _list_of(value) if key.startswith("layers_") else value
        if not isinstance(items, list) or not all(type(item) is kind for item in items):
            raise InputError(
                f"{folder}: {key} is not a list of names", "write the layers' names into adapter_config.json"
            )


def _plain(config: dict) -> bool:
    """Whether the adapter is y = x W^T + alpha/r x A^T B^T over the base as it is, with sound numbers, and no more."""
    r, alpha = config.get("r"), config.get("lora_alpha")
    numbers = type(r) is int and r > 0 and type(alpha) in (int, float) and 0 < alpha < 1e9
    plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    # pissa, olora and others change the base's weights
    start = config.get("init_lora_weights", True) in (True, False, "gaussian", "eva")
    unknown = [key for key, value in config.items() if value and key not in _HARMLESS]
    return plain and numbers and start and isinstance(config.get("sparseft", {}), dict) and not unknown
