"""Gemma 3's windows, tied embeddings and sizes, beside transformers' own configuration and the published model."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from sparseft.architectures import GEMMA3, find_architecture, tensor_shapes
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.planning.model_sizes import count
from tiny_models import change_json, save_tiny
from transformers import AutoModelForCausalLM, Gemma3TextConfig

# The keys of google/gemma-3-1b-it, config.json, that this project reads.
PUBLISHED = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "head_dim": 256,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}


def test_the_published_model_has_its_number_of_weights_and_no_output_head():
    shapes = tensor_shapes(PUBLISHED, "here")
    assert count(shapes) == 999_885_952
    assert "lm_head.weight" not in shapes


@pytest.mark.parametrize("pattern", [6, 2])
def test_the_windows_are_those_of_transformers_configuration(pattern):
    config = PUBLISHED | {"sliding_window_pattern": pattern}
    theirs = Gemma3TextConfig(**config)
    expected = [512 if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert GEMMA3.windows(config) == GEMMA3.windows(theirs.to_dict()) == expected
    assert expected.count(None) == 26 // pattern


def test_what_is_not_computed_is_refused_by_its_key():
    key = "use_bidirectional_attention"
    assert tensor_shapes(PUBLISHED | {key: None}, "here")
    with pytest.raises(InputError, match=f"^here: {key} is True "):
        tensor_shapes(PUBLISHED | {key: True}, "here")


def test_the_class_that_reads_images_is_refused_with_the_one_that_does_not():
    with pytest.raises(InputError, match=r"^here: architecture Gemma3ForConditionalGeneration .*Gemma3ForCausalLM"):
        find_architecture(["Gemma3ForConditionalGeneration"], "here")


def test_an_untied_model_has_an_output_head(tmp_path):
    checkpoint = Checkpoint(save_tiny("gemma3", tmp_path, changes={"tie_word_embeddings": False}))
    assert tensor_shapes(checkpoint.config, "here").keys() == checkpoint.tensors.keys()
    assert "lm_head.weight" in checkpoint.tensors


def test_a_smaller_model_whose_heads_do_not_divide_its_width_is_refused():
    config = PUBLISHED | {"hidden_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 4}
    units = {"intermediate_size": 8, "num_key_value_heads": 2}
    assert GEMMA3.smaller_config(config, units)["num_attention_heads"] == 4
    with pytest.raises(InputError, match="6 query heads.* 2560"):
        GEMMA3.smaller_config(config, units | {"num_key_value_heads": 3})
    with pytest.raises(StrictDataclassClassValidationError, match="2560"):
        Gemma3TextConfig(**config | {"num_attention_heads": 6, "num_key_value_heads": 3})


@torch.no_grad()
def test_a_file_of_transformers_4_describes_the_same_model(tmp_path):
    """It has the pattern of the windows and both bases of the rotary angles as numbers, and does not say that it is tied."""
    layers = {
        "num_hidden_layers": 4,
        "layer_types": [*["sliding_attention"] * 2, "full_attention", "sliding_attention"],
    }
    folder = save_tiny("gemma3", tmp_path, torch.float32, layers)
    ids = torch.arange(3, 123)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    old = {"sliding_window_pattern": 3, "rope_theta": 1_000_000, "rope_local_base_freq": 10_000}
    new = dict.fromkeys(("layer_types", "rope_parameters", "tie_word_embeddings", "_sliding_window_pattern"))
    change_json(folder / "config.json", **old, **new)
    checkpoint = Checkpoint(folder)
    assert tensor_shapes(checkpoint.config, "here").keys() == checkpoint.tensors.keys()
    assert GEMMA3.windows(checkpoint.config) == [64, 64, None, 64]
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, expected)
