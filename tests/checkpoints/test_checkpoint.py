"""Checkpoints as raw bits, beside the safetensors library, torch and transformers."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint, read_header, reject_not_finite, to_float32
from sparseft.errors import InputError
from sparseft.files import sha256
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM

AWKWARD = [0.0, -0.0, 1.0, -1.5, 3e-39, 65504.0, 2**-24, float("inf"), float("-inf"), float("nan")]
HEADER = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]},' + (
    b'"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"c":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
)
DATA = bytes(range(8))


def file_of(folder, header: bytes, data: bytes = DATA):
    path = folder / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_a_header_by_hand(tmp_path):
    head, tensors = read_header(file_of(tmp_path, HEADER))
    base = 8 + len(HEADER)
    assert head == len(HEADER).to_bytes(8, "little") + HEADER
    found = [(t.name, t.dtype, t.shape, t.start - base, t.nbytes) for t in tensors]
    assert found == [("c", "F32", (0,), 0, 0), ("b", "BF16", (2,), 0, 4), ("a", "F16", (1, 2), 4, 4)]
    assert Checkpoint(tmp_path).read("a").tolist() == [[0x0504, 0x0706]]


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


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, len(HEADER) - 1), byte=st.integers(0, 255))
@example(place=HEADER.index(b"[4,8]") + 1, byte=ord("0"))  # overlaps b
@example(place=HEADER.index(b"[4,8]") + 1, byte=ord("-"))
def test_of_an_altered_header_safetensors_and_we_read_the_same(tmp_path_factory, place, byte):
    path = file_of(tmp_path_factory.mktemp("altered"), HEADER[:place] + bytes([byte]) + HEADER[place + 1 :])
    try:
        ours = {t.name: (t.dtype, list(t.shape)) for t in read_header(path)[1]}
    except InputError:
        ours = None
    try:
        with safe_open(path, "pt") as peer:
            theirs = {
                name: (peer.get_slice(name).get_dtype(), peer.get_slice(name).get_shape()) for name in list(peer.keys())
            }
    except SafetensorError:
        return  # we may read more: a dtype that it does not know
    assert ours == theirs


HOSTILE = {
    "a hole": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    "an overlap": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    "a product that wraps": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    "a number of no size": b'{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}',
    "negative sides": b'{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}',
    "fractions": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0.0,8.0]}}',
    "a list": b"[1]",
    "depth": b"[" * 100_000,
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_lies_is_refused(tmp_path, header):
    with pytest.raises(InputError, match="truncated"):
        read_header(file_of(tmp_path, header))


def test_a_file_cut_anywhere_is_refused(tmp_path, tiny_llama):
    whole = (tiny_llama.folder / "model.safetensors").read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    cuts = [
        0,
        1,
        7,
        8,
        9,
        length // 2,
        length - 1,
        length,
        length + 1,
        *range(length, len(whole), 9973),
        len(whole) - 1,
    ]
    for size in cuts:
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
            _ = Checkpoint(tmp_path).tensors
    (tmp_path / "model.safetensors").write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="truncated"):
        _ = Checkpoint(tmp_path).tensors


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_cannot_name_a_file_outside_the_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match=r"leaves the model folder|no such file"):
        _ = Checkpoint(tmp_path).files


@pytest.mark.parametrize("index", ["{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "[]", "{"])
def test_an_index_of_another_form_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json"):
        _ = Checkpoint(tmp_path).files


def test_shards_hold_what_one_file_holds_and_a_missing_one_is_named(tmp_path, tiny_llama):
    folder = save_tiny("llama", tmp_path / "m", max_shard_size="40KB")
    many = Checkpoint(folder)
    assert len(many.files) == 2
    assert many.tensors.keys() == tiny_llama.tensors.keys()
    assert all((many.read(name) == tiny_llama.read(name)).all() for name in many.tensors)
    shutil.copy(many.files[0], folder / "model.safetensors")  # a leftover, which transformers takes for the whole
    assert Checkpoint(folder).files == [folder / "model.safetensors"]
    (folder / "model.safetensors").unlink()
    shutil.copy(many.files[0], many.files[1])
    with pytest.raises(InputError, match="is in model-00001-of"):
        _ = Checkpoint(folder).tensors
    many.files[1].unlink()
    with pytest.raises(InputError, match=rf"{many.files[1].name}: no such file"):
        _ = Checkpoint(folder).files


def test_transformers_too_prefers_the_single_file_to_an_index(tmp_path):
    folder = save_tiny("llama", tmp_path / "m", max_shard_size="40KB")
    shutil.copy(save_tiny("llama", tmp_path / "one") / "model.safetensors", folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert AutoModelForCausalLM.from_pretrained(folder).model.norm.weight[0] == 7
    assert to_float32(Checkpoint(folder).read("model.norm.weight"), "BF16")[0] == 7


def test_the_digest_comes_from_the_manifest_where_there_is_one(tmp_path, tiny_llama):
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "m")
    file = folder / "model.safetensors"
    digest = Checkpoint(folder).digest
    entry = {"files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}}}
    (folder / "manifest.json").write_text(json.dumps({**entry, "digest": "recorded"}))
    assert Checkpoint(folder).digest == "recorded"
    entry["files"][file.name]["bytes"] += 1
    (folder / "manifest.json").write_text(json.dumps({**entry, "digest": digest}))
    with pytest.raises(InputError, match=r"model\.safetensors: not the file that manifest\.json records"):
        _ = Checkpoint(folder).digest
    (folder / "manifest.json").write_text(json.dumps({"files": [1]}))
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest"):
        _ = Checkpoint(folder).digest


def test_the_digest_follows_the_weights_and_their_names_alone(tmp_path, tiny_llama):
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "m")
    (folder / "config.json").write_text("{}")
    assert Checkpoint(folder).digest == tiny_llama.digest
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint(folder).digest != tiny_llama.digest


def test_a_dtype_without_a_magnitude_by_bits_and_values_not_finite_are_refused(tmp_path):
    save_file(
        {"i": torch.ones(2, 2, dtype=torch.int8), "f": torch.tensor([1.0, math.inf])}, tmp_path / "model.safetensors"
    )
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(InputError, match="i is I8; convert it to one of BF16, F16, F32"):
        checkpoint.read("i")
    with pytest.raises(InputError, match="f holds NaN or infinity"):
        reject_not_finite(checkpoint.read("f"), checkpoint.tensors["f"])
