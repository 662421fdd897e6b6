"""Test the prunable layers of a checkpoint, and how they are coupled."""

import json

import pytest
import torch
from safetensors.torch import save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError

from masks import coupled_parts


@pytest.mark.parametrize(("names", "fault"), [
    (["model.norm.weight"], "no prunable layer .*1 weights"),
    (["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias"],
     "up_proj.bias is a bias, which LlamaForCausalLM"),
])  # fmt: skip
def test_a_checkpoint_without_prunable_layers_or_with_another_bias_is_refused(tmp_path, names, fault):
    save_file({name: torch.ones(2) for name in names}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InputError, match=fault):
        prunable_layers(Checkpoint(tmp_path))


def test_every_prunable_layer_is_in_exactly_one_group_whose_parts_have_equally_many_units(tiny):
    groups = coupled_parts(tiny)
    assert sorted(part.layer for parts in groups for part in parts) == sorted(prunable_layers(tiny))
    for parts in groups:
        units = {tiny.tensors[f"{part.layer}.weight"].shape[part.axis] / part.width for part in parts}
        assert units in ({2}, {48}, {32})  # key-value heads, FFN channels, those of an expert of Qwen3


def test_layer_10_comes_after_layer_9(tmp_path):
    weight = torch.ones(2, 2)
    save_file({f"model.layers.{n}.mlp.up_proj.weight": weight + n for n in range(12)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    numbers = [int(layer.split(".")[2]) for layer in prunable_layers(Checkpoint(tmp_path))]
    assert numbers == list(range(12))
