"""vLLM and llama.cpp compute what transformers does: tiny models in their shapes, whole and with half of what they had.

`make test-engines` gives the Pythons of the environments, the command of llama.cpp's converter, and a prepared model
whose tokenizer llama.cpp knows.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from sparseft.serving.engines import Engine, find_engines, measure
from sparseft.serving.gguf_file import format_shares, kept_zeros, write_gguf
from sparseft.serving.settings import Export
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

PROMPTS = [list(range(100, 116)), list(range(7000, 7016))]
SIZES = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "intermediate_size": 96, "max_position_embeddings": 128, "initializer_range": 0.2, "tie_word_embeddings": True,
}  # fmt: skip
HALF_OF_THE_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    # As compact writes it: fewer channels and heads.
    "smaller_llama": (LlamaForCausalLM, LlamaConfig, {"intermediate_size": 48} | HALF_OF_THE_HEADS),
    # As the removal of experts writes it.
    "mixtral_of_3_experts": (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 3}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of the models. They have the tokenizer of a real one."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), AutoTokenizer.from_pretrained(os.environ["ENGINES_MODEL"])
    for name, (kind, config, changes) in MODELS.items():
        torch.manual_seed(0)
        made = kind(config(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **SIZES | changes))
        prepared(made, tokenizer, folder / name)
    return {name: folder / name for name in MODELS}


def prepared(model: torch.nn.Module, tokenizer, folder: Path) -> Path:
    source = folder.with_name(f"{folder.name}_source")
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    prepare_model(Model(source=f"path:{source}", dtype="float32"), folder)
    return folder


def settings_of(kind: str, engine: str = "llama_cpp", **others: object) -> Export:
    place = f"{engine}:{os.environ[f'{engine.upper()}_PYTHON']}"
    return Export(engines=[place], gguf=kind, converter=os.environ["CONVERTER"], **others)


@pytest.mark.parametrize("engine", ["vllm", "llama_cpp"])
def test_an_engine_computes_what_transformers_does(models, engine):
    settings = settings_of("f32", engine, prompt_tokens=16, new_tokens=8, load=[3], repeats=1)
    results = list(measure(find_engines(settings, threads=1), models, PROMPTS))
    assert [one.model for one in results if one.engine == engine] == list(MODELS)
    for one in results:
        assert one.difference < 1e-4, one
        assert one.agrees, one
        assert [load.at_once for load in one.loads] == [1, 3]


@pytest.fixture(scope="module")
def zeros(models, tmp_path_factory) -> Path:
    """Return the folder of a model with rows of 256 and of 96 weights, of which every second one is zero."""
    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    made = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES | {"hidden_size": 256}))
    for layer in made.model.layers:
        for weight in (layer.mlp.gate_proj.weight, layer.mlp.down_proj.weight, layer.self_attn.k_proj.weight):
            weight.data[:, ::2] = 0
    return prepared(made, tokenizer, tmp_path_factory.mktemp("zeros") / "model")


# The number formats of each file's blocks, and the one in which a zero is not a zero.
FORMATS = {
    "f16": ({"f16"}, None), "bf16": ({"bf16"}, None), "q8_0": ({"q8_0"}, None), "q4_0": ({"q4_0", "q6_k"}, None),
    "q6_k": ({"q6_k", "q8_0"}, None), "q5_k_m": ({"q5_k", "q6_k", "q5_1", "q8_0"}, "q5_k"),
    "q4_k_m": ({"q4_k", "q6_k", "q5_0", "q8_0"}, "q4_k"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_a_zero_is_a_zero_in_each_format_that_has_one(zeros, tmp_path, kind):
    formats, without_zero = FORMATS[kind]
    exact, file = tmp_path / "exact.gguf", tmp_path / "model.gguf"
    write_gguf(settings_of("f32"), zeros, exact, "exact")
    write_gguf(settings_of(kind), zeros, file, "model")
    assert format_shares(file).keys() == formats
    assert (kept_zeros(exact, file) == 1) == (without_zero is None)


def test_an_engine_that_is_older_than_the_file_is_one_line(models, tmp_path):
    folder = shutil.copytree(models["llama"], tmp_path / "model")
    file = folder / "model.gguf"
    write_gguf(settings_of("f32"), folder, file, "model")
    # The version of the format.
    file.write_bytes(b"GGUF" + (99).to_bytes(4, "little") + file.read_bytes()[8:])
    engine = Engine("llama_cpp", os.environ["LLAMA_CPP_PYTHON"], "1", settings_of("f32"), threads=1)
    with pytest.raises(InputError, match=r"cannot load the file \(.*version 99.*\): is it older\?; "):
        list(measure([engine], {"run": folder}, PROMPTS))
