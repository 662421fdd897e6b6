"""Read and write adapters as PEFT does.

    y = x W^T + s (x A^T) B^T      A (r, in), B (out, r), fp32; s = lora_alpha / r

    adapter/adapter_model.safetensors   base_model.model.{layer}.lora_A.weight  (r, in)
                                        base_model.model.{layer}.lora_B.weight  (out, r)
    adapter/adapter_config.json         r, alpha, and which layers have matrices

The metadata `sparseft` of the weights' file is JSON with the run, its mode and the sha256 of the mask. Stock PEFT does
not read it: it would run and merge every adapter as if the mask were all ones.

Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load, save
from torch import Tensor

from sparseft.axes.architectures import PROJECTIONS
from sparseft.axes.grid import Run
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.checkpoints.trained_weights import TrainedCheckpoint, check_trained
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.hashes import sha256_of_text
from sparseft.storage.reading import parse_json, read_text
from sparseft.storage.record import ADAPTER_CONFIG, ORIGIN, TRAINED_BY_US, TRAINED_TENSORS, WEIGHTS, joint_digest
from sparseft.training.lora.settings import Adapters

_ADVICE = "train the run again"
# The keys of a PEFT configuration that do not change what A and B mean. An adapter that sets any other key is refused.
_HARMLESS = (
    "auto_mapping base_model_name_or_path bias eva_config inference_mode init_lora_weights loftq_config lora_alpha"
    " lora_dropout lora_ga_config megatron_core peft_type peft_version qalora_group_size r revision target_modules"
    " task_type"
).split()


def factor_names(layer: str) -> tuple[str, str]:
    """Return the names of a layer's two tensors, A (r, in) and B (out, r)."""
    return f"base_model.model.{layer}.lora_A.weight", f"base_model.model.{layer}.lora_B.weight"


def write_adapter(
    folder: Path, matrices: Mapping[str, tuple[Tensor, Tensor]], settings: Adapters, *, base: str, sparseft: dict
) -> None:
    """Write an adapter folder. `matrices`: layer -> (A (r, in), B (out, r)). `base`: the model's name. `sparseft`: its
    origin."""
    tensors = {
        name: matrix.detach().float().cpu().contiguous()
        for layer, pair in matrices.items()
        for name, matrix in zip(factor_names(layer), pair, strict=True)
    }
    projections = {layer.rpartition(".")[2] for layer in matrices}
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
        "target_modules": [name for name in PROJECTIONS if name in projections],
    }
    content = save(tensors)
    size = int.from_bytes(content[:8], "little")
    # The library would write several metadata in another order every time.
    entries = {"__metadata__": {"format": "pt", ORIGIN: json.dumps(sparseft)}, **json.loads(content[8 : 8 + size])}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with atomic_folder(folder, WEIGHTS, TRAINED_BY_US) as temporary:
        (temporary / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        write_json(temporary / ADAPTER_CONFIG, config)


class Adapter(NamedTuple):
    """Hold an adapter in memory."""

    # Layer -> (A (r, in), B (out, r)), fp32.
    pairs: dict[str, tuple[Tensor, Tensor]]
    # s = alpha / r.
    scale: float
    # The content of adapter_config.json.
    config: dict
    # Where the adapter comes from; empty for an adapter of stock PEFT.
    origin: dict
    # The digest of the bytes that all this was read from.
    digest: str


def read_adapter(folder: Path, model: Checkpoint) -> Adapter:
    """Return an adapter of a model. Each of its files is read once.

    Raises InputError if it is not the adapter that the train.json beside it records, if it is not a plain LoRA adapter,
    or if its matrices are not those of the layers that its target_modules name in the model."""
    text = read_text(folder / ADAPTER_CONFIG, _ADVICE)
    path = folder / WEIGHTS
    content = path.read_bytes()
    digest = joint_digest(hashlib.sha256(content).hexdigest(), sha256_of_text(text))
    check_trained(folder, digest)
    config = parse_json(text, folder / ADAPTER_CONFIG, _ADVICE)
    if not _is_plain(config):
        raise InputError(
            f"{folder}: not a plain LoRA adapter",
            "use one r and one alpha for all layers, a list of target_modules, no bias and no variant of LoRA",
        )
    tensors = load(content)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    origin = parse_json(metadata.get(ORIGIN, "{}"), path, _ADVICE)
    rank = config["r"]
    # A target names the end of a layer's path, as in PEFT.
    ends = tuple(f".{target}" for target in config["target_modules"])
    names = {}
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (rows, cols) in prunable_shapes(model).items():
        if f".{layer}".endswith(ends):
            names[layer] = A, B = factor_names(layer)
            expected |= {A: (rank, cols), B: (rows, rank)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        first, _ = min(shapes.items() ^ expected.items())
        raise InputError(
            f"{path}: not the matrices of rank {rank} of the target_modules in {model.folder} (first: {first})",
            "give the base that it was trained on",
        )
    pairs = {layer: (tensors[A].float(), tensors[B].float()) for layer, (A, B) in names.items()}
    return Adapter(pairs, config["lora_alpha"] / rank, config, origin, digest)


def read_trained(
    folder: Path, model: Checkpoint, origin: dict[str, object], run: Run | None, *, allows_stock: bool = False
) -> Adapter | TrainedCheckpoint:
    """Return what a training of a model has left in a folder: an adapter, or trained weights.

    Raises InputError as `read_adapter` does, and if the folder records another run than `run`, or something else than
    `origin`, such as another mask. With `allows_stock`, an adapter of stock PEFT passes, which records no origin."""
    has_weights = (folder / TRAINED_TENSORS).is_file()
    trained = TrainedCheckpoint(model.folder, folder) if has_weights else read_adapter(folder, model)
    expected = origin | ({"run_id": run.id, "mode": run.mode} if run else {})
    recorded = trained.origin if isinstance(trained, TrainedCheckpoint) else trained.config | trained.origin
    for name, value in expected.items():
        if recorded.get(name) != value and (trained.origin or not allows_stock):
            raise InputError(
                f"{folder}: its {name} is {recorded.get(name)}, not {value}", "give the adapter and the mask of one run"
            )
    return trained


def _is_plain(config: dict) -> bool:
    """Return whether the adapter computes y = x W^T + s (x A^T) B^T over the unchanged base, and no more."""
    return (
        config.get("peft_type") == "LORA"
        and all(config.get(key) for key in ("r", "lora_alpha"))
        # PEFT allows a pattern in the place of the names.
        and isinstance(config.get("target_modules"), list)
        and config.get("bias", "none") == "none"
        # Others, such as pissa and olora, change the weights of the base.
        and config.get("init_lora_weights", True) in (True, False, "gaussian", "eva")
        and not any(config[key] for key in config.keys() - _HARMLESS)
    )
