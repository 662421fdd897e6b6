"""Test that unfused experts compute what transformers' fused experts compute."""

import torch
from sparseft.language_model.experts import Experts, unfuse_experts
from transformers import AutoModelForCausalLM


def test_unfused_experts_give_the_fused_model_s_logits(tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["mixtral"], dtype=torch.float32).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        fused = model(ids).logits
        unfuse_experts(model)
        torch.testing.assert_close(model(ids).logits, fused, rtol=1e-5, atol=1e-5)
    assert sum(isinstance(module, Experts) for module in model.modules()) == 2


def test_a_dense_model_is_left_as_it_is(tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    before = [name for name, _ in model.named_modules()]
    unfuse_experts(model)
    assert [name for name, _ in model.named_modules()] == before
