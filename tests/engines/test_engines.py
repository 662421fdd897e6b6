"""vLLM and llama.cpp compute what transformers does: tiny models in their shapes, whole and with half of what they had.

`make test-engines` gives the Pythons of the environments, the command of llama.cpp's converter, and a prepared model
whose tokenizer llama.cpp knows.
"""

import os
from pathlib import Path

import pytest
import torch
from sparseft.checkpoints.model_source import prepare_model
from sparseft.export.engines import find_engines, measure
from sparseft.study.export_settings import Export
from sparseft.study.sources import Model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

PROMPTS = [list(range(100, 116)), list(range(7000, 7016))]
SIZES = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "intermediate_size": 96, "max_position_embeddings": 128, "initializer_range": 0.2, "tie_word_embeddings": True,
}  # fmt: skip
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    # As compact writes it: fewer channels and heads.
    "smaller_llama": (
        LlamaForCausalLM,
        LlamaConfig,
        {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
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
        made.save_pretrained(folder / f"{name}_source")
        tokenizer.save_pretrained(folder / f"{name}_source")
        prepare_model(Model(source=f"path:{folder / name}_source", dtype="float32"), folder / name)
    return {name: folder / name for name in MODELS}


@pytest.mark.parametrize("engine", ["vllm", "llama_cpp"])
def test_an_engine_computes_what_transformers_does(models, engine):
    settings = Export(
        engines=[f"{engine}:{os.environ[f'{engine.upper()}_PYTHON']}"],
        gguf="f32",
        converter=os.environ["CONVERTER"],
        new_tokens=8,
    )
    results = list(measure(find_engines(settings), models, PROMPTS, settings, threads=1))
    assert [one.model for one in results if one.engine == engine] == list(MODELS)
    for one in results:
        assert one.difference < 1e-4, one
        assert one.agrees, one
