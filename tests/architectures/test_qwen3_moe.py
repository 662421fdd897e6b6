"""Qwen3-MoE's sizes and windows under the keys of both releases of transformers, and what is refused."""

import pytest
import torch
from sparseft.architectures import QWEN3_MOE, tensor_shapes
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.soundness import check_tensors
from sparseft.errors import InputError
from sparseft.planning.model_sizes import count
from tiny_models import PRUNABLE_LAYERS, change_json, save_tiny
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

# The keys of Qwen/Qwen3-30B-A3B, config.json, that this project reads. transformers 4 wrote them.
PUBLISHED = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def test_the_published_model_has_its_number_of_weights_under_the_keys_of_both_releases():
    shapes = tensor_shapes(PUBLISHED, "here")
    assert count(shapes) == 30_532_122_624
    written = Qwen3MoeConfig(**PUBLISHED).to_dict()
    assert "num_experts" not in written
    assert tensor_shapes(written, "here") == shapes


@pytest.mark.parametrize("is_used", [True, False])
def test_a_window_counts_only_if_it_is_switched_on(is_used):
    config = PUBLISHED | {"sliding_window": 4096, "use_sliding_window": is_used}
    expected = [4096 if is_used else None] * 48
    assert QWEN3_MOE.windows(config) == QWEN3_MOE.windows(Qwen3MoeConfig(**config).to_dict()) == expected


@pytest.mark.parametrize(("key", "value"), [("mlp_only_layers", [0]), ("decoder_sparse_step", 2)])
def test_a_model_with_layers_without_experts_is_refused(tmp_path, key, value):
    checkpoint = Checkpoint(save_tiny("qwen3_moe", tmp_path, changes={key: value}))
    with pytest.raises(InputError, match=f"^here: {key} is "):
        tensor_shapes(checkpoint.config, "here")


@pytest.mark.parametrize("number", [0, None, "8"])
def test_a_number_of_experts_that_is_none_is_refused_by_its_key(number):
    with pytest.raises(InputError, match=r"^here: .*num_local_experts"):
        tensor_shapes(PUBLISHED | {"num_experts": number}, "here")


@torch.no_grad()
def test_a_file_of_transformers_4_describes_the_same_model(tmp_path):
    folder = save_tiny("qwen3_moe", tmp_path, torch.float32)
    ids = torch.arange(3, 123)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    change_json(folder / "config.json", num_local_experts=None, num_experts=4)
    checkpoint = Checkpoint(folder)
    check_tensors(checkpoint, "here")
    assert len(prunable_layers(checkpoint)) == PRUNABLE_LAYERS["qwen3_moe"]
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, expected)
