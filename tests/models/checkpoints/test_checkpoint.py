"""Compare checkpoints read as raw bits with the safetensors library, torch and transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint, read_header
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from sparseft.storage.bits import to_float32
from tiny_models import change_json, edited, save_tiny

from masks import coupled_parts

AWKWARD = [0.0, -0.0, 1.0, -1.5, 3e-39, 65504.0, 2**-24, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_headers_and_bits_are_those_of_safetensors_and_torch(tmp_path, dtype):
    values = torch.tensor([AWKWARD, AWKWARD[::-1]]).to(dtype)
    save_file({"x": values, "empty": values[:0], "scalar": values[0, 3].clone()}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as peer:
        assert checkpoint.tensors.keys() == set(peer.keys())
        for name, tensor in checkpoint.tensors.items():
            part = peer.get_slice(name)
            assert (tensor.dtype, list(tensor.shape)) == (part.get_dtype(), part.get_shape())
            integers = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
            assert checkpoint.read(name).tobytes() == peer.get_tensor(name).view(integers).numpy().tobytes()
    floats = torch.from_numpy(to_float32(checkpoint.read("x"), checkpoint.tensors["x"].dtype).copy())
    torch.testing.assert_close(floats, values.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_cannot_name_a_file_outside_the_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="no such file in the model folder"):
        _ = Checkpoint(tmp_path).files


def test_shards_hold_what_one_file_holds_and_a_missing_one_is_named(tmp_path, tiny_llama):
    folder = save_tiny("llama", tmp_path / "m", max_shard_size="40KB")
    many = Checkpoint(folder)
    assert len(many.files) == 2
    assert many.tensors.keys() == tiny_llama.tensors.keys()
    assert all((many.read(name) == tiny_llama.read(name)).all() for name in many.tensors)
    # transformers would take this leftover file for the whole model.
    shutil.copy(many.files[0], folder / "model.safetensors")
    assert Checkpoint(folder).files == [folder / "model.safetensors"]
    (folder / "model.safetensors").unlink()
    many.files[1].unlink()
    with pytest.raises(InputError, match=rf"{many.files[1].name}: no such file"):
        _ = Checkpoint(folder).files


@pytest.fixture
def prepared(tmp_path, tiny_llama) -> Path:
    """Return the folder of the tiny LLaMA as prepare_model writes it."""
    prepare_model(Model(source=f"path:{tiny_llama.folder}"), tmp_path / "models/llama")
    return tmp_path / "models/llama"


def test_the_digest_of_a_prepared_model_takes_the_hashes_of_its_weights_from_the_manifest(prepared, tiny_llama):
    assert Checkpoint(prepared).digest == tiny_llama.digest
    file = prepared / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert Checkpoint(prepared).digest == tiny_llama.digest
    with pytest.raises(InputError, match=r"model\.safetensors: .*manifest\.json records"):
        Checkpoint(prepared).check_manifest(Checkpoint(prepared).hashes())
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"model\.safetensors: .*manifest\.json records"):
        _ = Checkpoint(prepared).digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_the_digest_and_the_manifest_follow_every_file_that_decides_a_result(prepared, tiny_llama, name):
    file = prepared / name
    if name == "model.safetensors":
        with edited(prepared) as weights:
            weights["model.norm.weight"][0] += 1
    elif name.endswith(".json"):
        # The size of the file stays.
        file.write_text(file.read_text().replace("2", "3"))
    else:
        file.write_text("another file")
    with pytest.raises(InputError, match=rf"llama/{name}: .*manifest\.json records"):
        Checkpoint(prepared).check_manifest(Checkpoint(prepared).hashes())
    (prepared / "manifest.json").unlink()
    assert Checkpoint(prepared).digest != tiny_llama.digest


def test_the_digest_leaves_out_what_decides_nothing(tmp_path, tiny_llama):
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "m")
    change_json(folder / "config.json", dtype=None, torch_dtype="float16", transformers_version="4.0.0")
    for name in ("README.md", ".snakemake_timestamp", ".config.json", "manifest.txt", "optimizer.bin"):
        (folder / name).write_text("{}")
    (folder / "tokenizers.d").mkdir()
    assert Checkpoint(folder).digest == tiny_llama.digest


def test_a_dtype_without_a_magnitude_by_bits_is_refused(tmp_path):
    save_file({"i": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"\bi is .*I8"):
        Checkpoint(tmp_path).read("i")


def test_a_file_that_became_shorter_is_noticed(tmp_path, tiny_llama):
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "m")
    checkpoint = Checkpoint(folder)
    name = "model.layers.1.self_attn.v_proj.weight"
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(checkpoint.tensors[name].start + 2)
    with pytest.raises(InputError, match=f"ends within {name}"):
        list(checkpoint.read_blocks(name, 1))


HEADER = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]},' + (
    b'"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"c":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
)


def test_a_header_by_hand(tmp_path):
    file, head = tmp_path / "model.safetensors", len(HEADER).to_bytes(8, "little") + HEADER
    file.write_bytes(head + bytes(range(8)))
    header, tensors = read_header(file)
    assert header == head
    found = [(t.name, t.dtype, t.shape, t.start - len(head), t.nbytes) for t in tensors]
    assert found == [("c", "F32", (0,), 0, 0), ("b", "BF16", (2,), 0, 4), ("a", "F16", (1, 2), 4, 4)]
    assert Checkpoint(tmp_path).read("a").tolist() == [[0x0504, 0x0706]]


def test_a_file_that_is_not_as_long_as_its_header_says_is_refused(tmp_path, tiny_llama):
    whole = (tiny_llama.folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for content in (*(whole[:size] for size in (0, 7, 9, header - 1, header, len(whole) - 1)), whole + b"\0"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
            _ = Checkpoint(tmp_path).tensors


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_rows_are_those_of_the_matrix_or_vector_and_blocks_are_whole_rows(tiny_llama, name):
    whole = tiny_llama.read(name)
    for rows in (slice(0, 1), slice(3, 20), slice(31, 32)):
        assert np.array_equal(tiny_llama.read(name, rows), whole[rows])
    for block in (1, 40, 10**6):
        blocks = [part.copy() for part in tiny_llama.read_blocks(name, block)]
        assert all(part.size % whole[0].size == 0 for part in blocks)
        assert np.array_equal(np.concatenate(blocks), whole.ravel())


@pytest.mark.parametrize(("names", "fault"), [
    (["model.norm.weight"], "no prunable layer .*1 weights"),
    (["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias"],
     "up_proj.bias is a bias, which LlamaForCausalLM"),
])  # fmt: skip
def test_a_checkpoint_without_prunable_layers_or_with_another_bias_is_refused(tmp_path, names, fault):
    save_file({name: torch.ones(2) for name in names}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InputError, match=fault):
        prunable_layers(Checkpoint(tmp_path))


def test_every_prunable_layer_is_in_exactly_one_group_whose_parts_have_equally_many_units(tiny):
    groups = coupled_parts(tiny)
    assert sorted(part.layer for parts in groups for part in parts) == sorted(prunable_layers(tiny))
    for parts in groups:
        units = {tiny.tensors[f"{part.layer}.weight"].shape[part.axis] / part.width for part in parts}
        assert units in ({2}, {48}, {32})  # key-value heads, FFN channels, those of an expert of Qwen3


def test_layer_10_comes_after_layer_9(tmp_path):
    weight = torch.ones(2, 2)
    save_file({f"model.layers.{n}.mlp.up_proj.weight": weight + n for n in range(12)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    numbers = [int(layer.split(".")[2]) for layer in prunable_layers(Checkpoint(tmp_path))]
    assert numbers == list(range(12))
