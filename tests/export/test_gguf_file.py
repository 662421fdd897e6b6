"""Test what is said of a GGUF file before it is written, and what is read of its blocks."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.export.gguf_file import check_rows, format_shares, kept_zeros, write_gguf
from sparseft.study.export_settings import Export
from tiny_models import save_tiny

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
NARROW = {"intermediate_size": 96}


@pytest.mark.parametrize(
    ("changes", "kind", "note"),
    [
        ({}, "q4_k_m", ""),
        (NARROW, "q4_k_m", "rows of 96, no multiple of 256, so llama.cpp writes"),
        (NARROW, "q4_0", ""),
    ],
)
def test_rows_without_whole_blocks_are_said_before_the_file_is_written(tmp_path, capsys, changes, kind, note):
    check_rows(Checkpoint(save_tiny("llama", tmp_path / "model", changes=WIDE | changes)), kind)
    printed = capsys.readouterr().err
    assert note in printed
    assert printed.count("\n") == bool(note)


def test_rows_without_any_blocks_are_refused(tmp_path):
    model = Checkpoint(save_tiny("llama", tmp_path / "model", changes=WIDE | {"intermediate_size": 100}))
    with pytest.raises(InputError, match=r"down_proj.weight have 100 weights, no multiple of 32; ask for f16 or bf16"):
        check_rows(model, "q4_0")


@pytest.mark.parametrize(("settings", "fault"), [
    # The quantiser is looked for before the conversion.
    ({"gguf": "q4_0", "converter": "/nowhere/converter", "engines": [f"llama_cpp:{sys.executable}"]},
     f"llama_cpp:{sys.executable}: .*no package llama-cpp-python; "),
    ({"gguf": "f32", "converter": "true"},
     "converter: true: it wrote no model.gguf; it printed last: nothing; name a Python"),
])  # fmt: skip
def test_a_file_that_cannot_be_written_is_refused(tmp_path, settings, fault):
    model = save_tiny("llama", tmp_path / "model", changes=WIDE)
    with pytest.raises(InputError, match=fault):
        write_gguf(Export(**settings), model, tmp_path / "model.gguf", "model")


def written(path: Path, weights: np.ndarray, kind: gguf.GGMLQuantizationType) -> Path:
    """Write a GGUF file with a matrix in a number format and a vector, and return its path."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("matrix", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("vector", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
