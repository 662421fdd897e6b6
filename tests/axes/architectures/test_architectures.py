"""The table of the architectures, beside the models that transformers builds."""

import copy
import re

import pytest
import torch
from sparseft.axes.architectures import (
    ARCHITECTURES,
    GEMMA3,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    find_architecture,
    tensor_shapes,
)
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.weights import memory_path, unfuse_experts
from tiny_models import MODELS, PRUNABLE_LAYERS, SIZES, change_json, save_tiny
from transformers import AutoModelForCausalLM, Gemma3TextConfig, Qwen2Config, Qwen3Config


@pytest.mark.parametrize("name", MODELS)
def test_the_prunable_layers_are_the_linears_of_transformers_decoder_layers(tiny_models, name):
    model = AutoModelForCausalLM.from_pretrained(tiny_models[name])
    architecture = find_architecture(model.config.architectures, name)
    unfuse_experts(model)
    linears = {path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    layers = architecture.prunable(
        tensor.removesuffix(".weight") for tensor in tensor_shapes(model.config.to_dict(), name)
    )
    assert {memory_path(architecture, layer) for layer in layers} == linears
    assert len(layers) == PRUNABLE_LAYERS[name]


@pytest.mark.parametrize("classes", [["Gemma3ForConditionalGeneration"], None])
def test_an_unknown_class_is_refused_with_the_known_ones_and_the_place(classes):
    known = ", ".join(architecture.class_name for architecture in ARCHITECTURES)
    with pytest.raises(InputError, match=f"^here: .*{re.escape(known)}"):
        find_architecture(classes, "here")


def test_a_model_without_one_of_its_sizes_is_refused_by_the_key(tiny):
    for key in tiny.architecture.sizes:
        with pytest.raises(InputError, match=rf"^here: .*\b{key}\b"):
            tensor_shapes({name: value for name, value in tiny.config.items() if name != key}, "here")


# Keys of config.json that this project refuses -> what the error names.
REFUSED = [
    ("llama", {"max_position_embeddings": 0}, "config.json is damaged: max_position_embeddings is 0"),
    ("qwen3_moe", {"num_local_experts": "8"}, "config.json is damaged: num_local_experts is '8'"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers is "),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True "),
]


@pytest.mark.parametrize(("name", "keys", "line"), REFUSED)
def test_a_configuration_that_is_not_computed_is_refused_by_its_key(tiny_models, name, keys, line):
    with pytest.raises(InputError, match=f"^here: {line}"):
        tensor_shapes(Checkpoint(tiny_models[name]).config | keys, "here")


# Keys of config.json, as some models have them, that decide which decoder layers have a window.
FOUR_LAYERS = {"num_hidden_layers": 4}
WINDOWS = [
    {},
    {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 2},
    {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2},
    {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0},
    {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"] * 2},
    {"use_sliding_window": True, "sliding_window": None},
]
CASES = [
    *((architecture, kind, keys)
      for architecture, kind in ((QWEN2, Qwen2Config), (QWEN3, Qwen3Config)) for keys in WINDOWS),
    *((GEMMA3, Gemma3TextConfig, {"sliding_window": 512, "sliding_window_pattern": pattern}) for pattern in (6, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "kind", "keys"), CASES)
def test_the_windows_of_the_layers_are_those_of_transformers(architecture, kind, keys):
    config = kind(**SIZES | FOUR_LAYERS | copy.deepcopy(keys))
    expected = [config.sliding_window if name == "sliding_attention" else None for name in config.layer_types]
    # As a model's page has it, and as transformers writes it again.
    for written in (FOUR_LAYERS | keys, config.to_dict()):
        assert architecture.windows(written) == expected


def test_where_all_layers_have_the_same_window():
    config = {"num_hidden_layers": 2, "sliding_window": 8}
    assert LLAMA.windows(config) == [None, None]
    assert MISTRAL.windows(config) == [8, 8]
    assert [QWEN3_MOE.windows(config | {"use_sliding_window": used}) for used in (0, 1)] == [[None] * 2, [8, 8]]


# What a file of transformers 4 says otherwise: the keys that it has, and those that it lacks.
GEMMA_BEFORE = {"sliding_window_pattern": 3, "rope_theta": 1_000_000, "rope_local_base_freq": 10_000}
GEMMA_AFTER = ("layer_types", "rope_parameters", "tie_word_embeddings", "_sliding_window_pattern")


@torch.no_grad()
@pytest.mark.parametrize(("name", "made_with", "before", "after"), [
    ("gemma3",
     {"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"]},
     GEMMA_BEFORE, GEMMA_AFTER),
    ("qwen3_moe", {}, {"num_experts": 4}, ("num_local_experts",)),
])  # fmt: skip
def test_a_file_of_transformers_4_describes_the_same_model(tmp_path, name, made_with, before, after):
    folder = save_tiny(name, tmp_path, torch.float32, made_with)
    ids = torch.arange(3, 123)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    windows = find_architecture(Checkpoint(folder).config["architectures"], name).windows(Checkpoint(folder).config)
    change_json(folder / "config.json", **before, **dict.fromkeys(after))
    checkpoint = Checkpoint(folder)
    assert tensor_shapes(checkpoint.config, "here").keys() == checkpoint.tensors.keys()
    assert checkpoint.architecture.windows(checkpoint.config) == windows
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, expected)


def test_heads_that_cannot_be_left_out_are_refused():
    gemma = {"head_dim": 256, "hidden_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 4}
    assert GEMMA3.smaller_config(gemma, {"intermediate_size": 8, "num_key_value_heads": 2})["num_attention_heads"] == 4
    with pytest.raises(InputError, match="6 query heads.* 2560"):
        GEMMA3.smaller_config(gemma, {"intermediate_size": 8, "num_key_value_heads": 3})
