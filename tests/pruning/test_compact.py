"""Test that the smaller checkpoint has the masked model's logits and order of tensors, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparseft.axes.architectures.architecture import attention_heads
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.pruning.compact import compact
from sparseft.pruning.masks.mask_file import Mask
from sparseft.storage.bits import pack
from sparseft.training.lora.merge import merge
from tiny_models import SIZES, loaded, save_tiny
from transformers import LlamaConfig, LlamaForCausalLM

from masks import coupled_parts, write_mask

IDS = torch.arange(3, 51).reshape(2, 24)
# The difference that another order of sums may make, relative to the largest logit. Seen: 1.1e-6.
BOUND = 5e-6
# Half of so many channels is the multiple of a smaller model.
WIDE = {"intermediate_size": 64}
WIDE_EXPERTS = {"moe_intermediate_size": 64}
# (first layer of a group, its number of units) -> the units that are kept.
Choose = Callable[[str, int], np.ndarray]


def half(layer: str, units: int) -> np.ndarray:
    return np.random.default_rng(list(layer.encode())).permutation(units)[: units // 2]


def structured(checkpoint: Checkpoint, choose: Choose = half) -> Mask:
    shape, bits = prunable_shapes(checkpoint), {}
    for parts in coupled_parts(checkpoint):
        first = parts[0]
        kept = choose(first.layer, shape[first.layer][first.axis] // first.width)
        for part in parts:
            units = np.zeros(shape[part.layer][part.axis] // part.width, bool)
            units[kept] = True
            channels = np.expand_dims(np.repeat(units, part.width), 1 - part.axis)
            bits[part.layer] = pack(np.broadcast_to(channels, shape[part.layer]))
    return Mask({"method": "structured", "sparsity": 0.5}, bits, shape)


def masked(base: Checkpoint, mask: Mask, folder: Path) -> Checkpoint:
    merge(base, mask, "m", None, folder)
    return Checkpoint(folder)


def compacted(checkpoint: Checkpoint, mask: Mask, output: Path) -> dict:
    path = output.parent / "mask.pt"
    write_mask(path, mask)
    return compact(checkpoint, path, output)


@torch.no_grad()
def assert_same_function(checkpoint: Checkpoint, folder: Path) -> None:
    ours, theirs = (loaded(model)(IDS).logits.float() for model in (folder, checkpoint.folder))
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < BOUND * theirs.abs().max()


@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma3", "qwen3_moe", "granite"])
def test_what_stays_keeps_its_order_and_its_bits_and_the_record_counts_it(tmp_path, name):
    tiny = Checkpoint(save_tiny(name, tmp_path / "base", changes=WIDE_EXPERTS if name == "qwen3_moe" else WIDE))
    mask = structured(tiny)
    record = compacted(masked(tiny, mask, tmp_path / "masked"), mask, tmp_path / "small")
    before, after = load_file(tmp_path / "masked/model.safetensors"), load_file(tmp_path / "small/model.safetensors")
    assert list(before) == list(after)
    for tensor, W in before.items():
        layer = tensor.removesuffix(".weight").removesuffix(".bias")
        if layer in mask.shape:
            kept = torch.from_numpy(mask.kept(layer))
            W = W[kept.any(1)]
            if W.ndim == 2:
                W = W[:, kept.any(0)]
        assert torch.equal(after[tensor].view(torch.int16), W.view(torch.int16))
    changes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": attention_heads(tiny.config).size}
    changes["moe_intermediate_size" if name == "qwen3_moe" else "intermediate_size"] = 32
    assert (record["method"], record["sparsity"], record["after"]["config"]) == ("structured", 0.5, changes)
    assert Checkpoint(tmp_path / "small").config == tiny.config | changes
    numbers = [sum(tensor.numel() for tensor in tensors.values()) for tensors in (before, after)]
    assert [record[when]["parameters"] for when in ("before", "after")] == numbers
    assert record["after"]["bytes"] == (tmp_path / "small/model.safetensors").stat().st_size
    own = {"model.safetensors", "config.json"}
    others = {path.name for path in tiny.folder.iterdir()} - own
    assert {path.name for path in (tmp_path / "small").iterdir()} == others | own | {"compact.json"}
    assert all((tmp_path / "small" / name).read_bytes() == (tiny.folder / name).read_bytes() for name in others)


@pytest.mark.parametrize("config", [{}, {"layer_types": None}, {"layer_types": ["full_attention"] * 2}])
def test_heads_that_llama_s_configuration_refuses_are_written_as_mistral_s(tmp_path, config):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES | {"num_key_value_heads": 4})).save_pretrained(tmp_path / "base")
    file = tmp_path / "base/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    base = Checkpoint(tmp_path / "base")
    mask = structured(base, lambda layer, units: np.arange(units)[units // 4 :])  # 3 heads of 4 in a width of 32
    merged = masked(base, mask, tmp_path / "masked")
    record = compacted(merged, mask, tmp_path / "small")
    assert record["after"]["config"]["num_attention_heads"] == 3
    assert Checkpoint(tmp_path / "small").config["model_type"] == "mistral"
    assert_same_function(merged, tmp_path / "small")


def test_channels_are_filled_up_with_zeros_to_whole_blocks(tmp_path):
    base = Checkpoint(save_tiny("mixtral", tmp_path / "base", torch.float32, {"intermediate_size": 96}))
    mask = structured(base, lambda layer, units: half(layer, units) if units == 2 else np.arange(units)[62:])
    merged = masked(base, mask, tmp_path / "masked")
    record = compacted(merged, mask, tmp_path / "small")
    assert record["after"]["config"]["intermediate_size"] == 64  # 34 of 96 are kept
    assert_same_function(merged, tmp_path / "small")
    w2 = load_file(tmp_path / "small/model.safetensors")["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    assert w2.any(0).tolist() == [False] * 30 + [True] * 34


def refuse(checkpoint: Checkpoint, mask: Mask, folder: Path, line: str) -> None:
    with pytest.raises(InputError, match=line):
        compacted(checkpoint, mask, folder / "small")
    assert [path.name for path in folder.iterdir()] == ["mask.pt"]


@pytest.mark.parametrize(
    ("layer", "keeps"), [*((name, False) for name in ("q", "o", "gate", "down")), ("v", True), ("up", True)]
)
def test_a_unit_pruned_only_in_part_is_refused(tmp_path, tiny_llama, layer, keeps):
    """The layer prunes one more weight, or it keeps what the other layers of its group prune."""
    mask = structured(tiny_llama)
    (layer,) = [name for name in mask.shape if name.startswith("model.layers.1.") and name.endswith(f".{layer}_proj")]
    kept = mask.kept(layer)
    kept[tuple(np.argwhere(kept)[0])] = False
    mask.bits[layer] = pack(kept | keeps)
    refuse(tiny_llama, mask, tmp_path, f"{layer}: .*channel or head .*in part")


@pytest.mark.parametrize(("layers", "kept", "line"), [
    ("1.self_attn.q_proj", 2, "heads.*: 1 in model.layers.0.self_attn.q_proj and 2 in model.layers.1.self_attn.q_proj"),
    ("1.mlp.gate_proj", 0, "channels.*: 32 in model.layers.0.mlp.gate_proj and 0 in model.layers.1.mlp.gate_proj"),
    (".mlp.", 0, "channels.*: 0 in model.layers.0.mlp.gate_proj"),
    # A mode that lifts the mask may train pruned columns.
    ("no layer", 0, "layers.0.mlp.down_proj.weight: a pruned column is not zero"),
])  # fmt: skip
def test_units_that_leave_no_smaller_model_are_refused(tmp_path, tiny_llama, layers, kept, line):
    mask = structured(
        tiny_llama, lambda first, units: np.arange(units)[:kept] if layers in first else half(first, units)
    )
    refuse(tiny_llama, mask, tmp_path, line)
