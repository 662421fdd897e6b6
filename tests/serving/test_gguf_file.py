"""Test which GGUF files are refused, and what is read of the blocks of one."""

import sys
from contextlib import nullcontext
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from project import program
from safetensors.torch import load_file
from sparseft.common.errors import InputError
from sparseft.serving.gguf_file import format_shares, kept_zeros, write_gguf
from sparseft.serving.settings import Export
from tiny_models import save_tiny

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
NARROW = {"intermediate_size": 96}


def test_a_quantiser_that_is_missing_is_named_before_the_conversion(tmp_path):
    model = save_tiny("llama", tmp_path / "model", changes=WIDE)
    settings = Export(gguf="q4_0", converter="/nowhere/converter", engines=[f"llama_cpp:{sys.executable}"])
    with pytest.raises(InputError, match=f"llama_cpp:{sys.executable}: .*no package llama-cpp-python; "):
        write_gguf(settings, model, tmp_path / "model.gguf", "model")


# How llama.cpp names the tensors of a decoder layer of a LLaMA.
LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def finished(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def converted(model: Path, file: Path) -> Path:
    writer = gguf.GGUFWriter(file, "llama")
    for name, tensor in load_file(model / "model.safetensors").items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        own = OUTER.get(name) or f"blk.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"
        writer.add_tensor(own, tensor.float().numpy())
    return finished(writer, file)


# It copies the file that it is to quantise.
QUANTIZER = f"""#!{sys.executable}
import json, shutil, sys
request = json.load(open(sys.argv[4]))
if request:
    shutil.copy(request["model"], request["quantized"])
json.dump({{"version": "1.0"}}, open(sys.argv[5], "w"))
"""


# How a converter writes its output from the file of the model or of a wider one, and what the error says.
@pytest.mark.parametrize(("command", "kind", "fault"), [
    ("cp {own} $5", "f32", None),
    ("cp {own} $5", "bf16", "not the model in bf16: its tensors"),
    ("cp {own} $5", "q4_0", "not the model in q4_0: its tensors"),
    ("cp {wider} $5", "f32", "not the model in f32: its tensors"),
    ("head -c 99999 {own} > $5", "f32", ""),
    ("ln -s {own} $5", "f32", "it is a link"),
    ("true", "f32", "No such file"),
])  # fmt: skip
def test_a_file_that_is_not_the_model_is_refused(tmp_path, command, kind, fault):
    model = save_tiny("llama", tmp_path / "model", torch.float32, WIDE | NARROW)
    wider = converted(save_tiny("llama", tmp_path / "other", torch.float32, WIDE), tmp_path / "wider")
    script = command.format(own=converted(model, tmp_path / "own"), wider=wider)
    engines = [f"llama_cpp:{program(tmp_path / 'python', QUANTIZER)}"]
    settings = Export(
        gguf=kind, converter=str(program(tmp_path / "convert", f"#!/bin/sh\n{script}\n")), engines=engines
    )
    with (
        nullcontext()
        if fault is None
        else pytest.raises(InputError, match=f"(converter|llama_cpp).*{fault}.*; it printed last")
    ):
        write_gguf(settings, model, tmp_path / "model.gguf", "model")


def written(path: Path, weights: np.ndarray, kind: gguf.GGMLQuantizationType) -> Path:
    """Write a GGUF file with a matrix in a number format and a vector, and return its path."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("matrix", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("vector", np.zeros(32, np.float32))
    return finished(writer, path)


def test_the_zeros_that_stay_are_counted_in_the_blocks_of_the_file(tmp_path):
    weights = np.random.default_rng(0).normal(1, 0.1, (2, 64)).astype(np.float32)
    kinds = gguf.GGMLQuantizationType
    dense = written(tmp_path / "dense", weights, kinds.F32)
    weights[:, :4] = 0
    exact = written(tmp_path / "exact", weights, kinds.BF16)
    # A block of q8_0 has its zero, and one of q4_1 has it if it has the smallest of its weights.
    symmetric = written(tmp_path / "symmetric", weights, kinds.Q8_0)
    weights[:, 4] = -0.5
    shifted = written(tmp_path / "shifted", weights, kinds.Q4_1)
    assert format_shares(symmetric) == {"q8_0": 1}
    assert [kept_zeros(exact, file) for file in (symmetric, shifted, dense)] == [1, 0, 0]
    assert kept_zeros(dense, symmetric) is None
