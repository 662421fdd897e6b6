"""Which weights of an architecture are prunable, and how they are coupled.

A layer is the Hugging Face name of its weight, as it stands on disk, without ".weight". Mixtral's experts are
w1 (gate), w2 (down), w3 (up) on disk; transformers 5 fuses them in memory, under `mlp` (see lora/experts.py).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM")
_PRUNABLE = re.compile(
    r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|block_sparse_moe\.experts\.\d+\.w[123])"
)

# Older transformers stored these buffers; every model computes them from its configuration.
ROTARY_BUFFER = re.compile(r"(^|\.)rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Part:
    """A layer's share in coupled units: unit u is `width` rows (axis 0) or columns (axis 1) from u * width on."""

    layer: str
    axis: int
    width: int


def check_architecture(config: dict, place: Path | str) -> None:
    """Raises InputError for a config.json, the one in `place`, of an architecture that is not LLaMA's, Mistral's or Mixtral's."""
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else "none"
    if architecture not in ARCHITECTURES:
        raise InputError(f"{place}: architecture {architecture}", f"use one of {', '.join(ARCHITECTURES)}")


def attention_heads(config: dict) -> tuple[int, int, int]:
    """(query heads, key-value heads, rows of a head) of a config.json, which may leave out the last two."""
    heads = config["num_attention_heads"]
    return heads, config.get("num_key_value_heads") or heads, config.get("head_dim") or config["hidden_size"] // heads


def prunable_names(names: Iterable[str]) -> list[str]:
    """Those of a checkpoint's weights, named without ".weight", that are prunable, in the order of their decoder layers."""
    return sorted(filter(_PRUNABLE.fullmatch, names), key=_natural)


def prunable_layers(checkpoint: Checkpoint) -> list[str]:
    """The prunable layers in the order of their decoder layers.

    Raises InputError on an architecture that is not LLaMA's, Mistral's or Mixtral's."""
    check_architecture(checkpoint.config, checkpoint.folder)
    names = [name.removesuffix(".weight") for name in checkpoint.tensors if name.endswith(".weight")]
    biased = [name for name in checkpoint.tensors if _PRUNABLE.fullmatch(name.removesuffix(".bias")) and "bias" in name]
    if biased:
        raise InputError(f"{checkpoint.folder}: {biased[0]} is a bias", "use a model whose projections have none")
    layers = prunable_names(names)
    if not layers:
        raise InputError(f"{checkpoint.folder}: no prunable layer among {len(names)} weights", "check the checkpoint")
    return layers


def prunable_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """layer -> (rows, cols), in the order of `prunable_layers`."""
    shapes = {layer: checkpoint.tensors[f"{layer}.weight"].shape for layer in prunable_layers(checkpoint)}
    odd = [layer for layer, shape in shapes.items() if len(shape) != 2 or 0 in shape]
    if odd:
        raise InputError(f"{checkpoint.folder}: {odd[0]} has the shape {shapes[odd[0]]}", "repair the checkpoint")
    return shapes


def coupled_parts(checkpoint: Checkpoint) -> list[list[Part]]:
    """The groups of layers whose channels are removed together.

    An FFN channel is a row of gate and up and a column of down; an attention unit is a key-value head with its
    query heads: rows of q, k and v and columns of o. Source: LLM-Pruner (arXiv 2305.11627), section 3.1."""
    heads, kv_heads, head_dim = attention_heads(checkpoint.config)
    groups = []
    for layer in prunable_layers(checkpoint):
        prefix, _, projection = layer.rpartition(".")
        if projection == "q_proj":
            q = Part(layer, 0, head_dim * heads // kv_heads)
            kv = [Part(f"{prefix}.{name}", 0, head_dim) for name in ("k_proj", "v_proj")]
            groups.append([q, *kv, Part(f"{prefix}.o_proj", 1, q.width)])
        elif projection in ("gate_proj", "w1"):
            up, down = ("up_proj", "down_proj") if projection == "gate_proj" else ("w3", "w2")
            groups.append([Part(layer, 0, 1), Part(f"{prefix}.{up}", 0, 1), Part(f"{prefix}.{down}", 1, 1)])
    return groups


def _natural(name: str) -> list[str | int]:
    """Sort key that puts layers.10 after layers.9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
