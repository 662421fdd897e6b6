"""Test that unfused experts compute what transformers' fused experts compute."""

import pytest
import torch
from safetensors.torch import load_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.language_model.experts import Experts, memory_path, unfuse_experts
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_unfused_experts_give_the_fused_model_s_logits(tiny_models, name):
    model = AutoModelForCausalLM.from_pretrained(tiny_models[name], dtype=torch.float32).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        fused = model(ids).logits
        unfuse_experts(model)
        torch.testing.assert_close(model(ids).logits, fused, rtol=1e-5, atol=1e-5)
    assert sum(isinstance(module, Experts) for module in model.modules()) == 2


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_the_layers_of_an_unfused_model_are_the_matrices_of_its_files(tiny_models, name):
    checkpoint = Checkpoint(tiny_models[name])
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype="auto")
    unfuse_experts(model)
    weights = load_file(checkpoint.files[0])
    for layer in prunable_layers(checkpoint):
        linear = model.get_submodule(memory_path(checkpoint.architecture, layer))
        assert torch.equal(linear.weight, weights[f"{layer}.weight"])
