"""The bytes of a mask file, its two formats, and torch and safetensors as other readers of it."""

import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sparseft.common.errors import InputError
from sparseft.pruning.masks.mask_file import Mask, check_mask, read_mask
from sparseft.storage.bits import pack

from masks import compute_masks, write_mask


@pytest.fixture
def mask() -> Mask:
    kept = {"a": np.random.default_rng(0).random((3, 17)) < 0.5, "b": np.ones((1, 1), bool)}
    meta = {"method": "random", "sparsity": 0.5, "seed": 0, "base": None, "exact": True, "negative": -3}
    return Mask(meta, {name: pack(array) for name, array in kept.items()}, {"a": (3, 17), "b": (1, 1)})


def test_bits_are_little_endian_along_the_last_axis():
    kept = np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0, 0]], bool)
    assert pack(kept).tolist() == [[0x81, 0x01], [0x02, 0x00]]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_mask_reads_back_as_it_was_written(tmp_path, mask, suffix):
    path = tmp_path / f"m{suffix}"
    # A longer file at the same place is no part of the mask.
    path.write_bytes(bytes(100_000))
    write_mask(path, mask)
    back = read_mask(path)
    kept = sum(int(mask.kept(layer).sum()) for layer in mask.shape)
    assert (back.meta, back.shape) == (mask.meta | {"reached": 1 - kept / 52}, mask.shape)
    assert back.bits.keys() == mask.bits.keys()
    assert all((back.bits[layer] == mask.bits[layer]).all() for layer in mask.bits)
    # A process of a divided training takes its own rows.
    assert all((back.kept(layer, slice(1, 3)) == mask.kept(layer)[1:3]).all() for layer in mask.bits)


def test_torch_and_safetensors_read_the_file_and_its_name_changes_no_byte(tmp_path, mask):
    for name in ("m.pt", "another.pt", "m.safetensors"):
        write_mask(tmp_path / name, mask)
    peer = torch.load(tmp_path / "m.pt", weights_only=True, mmap=True)
    ours = read_mask(tmp_path / "m.pt")
    assert list(peer) == ["format_version", "meta", "bits", "shape"]
    assert (peer["format_version"], peer["meta"]) == (1, ours.meta)
    assert {layer: tuple(shape) for layer, shape in peer["shape"].items()} == ours.shape
    for bits in ({layer: of.numpy() for layer, of in peer["bits"].items()}, load_file(tmp_path / "m.safetensors")):
        assert all((bits[layer] == mask.bits[layer]).all() for layer in mask.shape)
    assert (tmp_path / "m.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_cut_file_is_refused(tmp_path, mask, suffix):
    path = tmp_path / f"m{suffix}"
    write_mask(path, mask)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_mask(path)


def test_a_mask_of_another_model_is_refused_with_all_that_differs(mask):
    with pytest.raises(InputError) as caught:
        check_mask(mask, "m.pt", {"a": (3, 18), "c": (2, 2)})
    what = r"1 layers missing \(first: c\).*1 layers unknown .*\(first: b\).*1 layers .*shape \(first: a is "
    assert re.search(what, str(caught.value))
    with pytest.raises(InputError, match="computed from other weights"):
        check_mask(mask, "m.pt", mask.shape, "0123")


def test_a_mask_that_prunes_another_share_than_it_says_is_refused(tmp_path, tiny_llama):
    real = compute_masks(tiny_llama, "unstructured", [50])[50]
    rows = sum(rows for rows, _ in real.shape.values())
    weights = sum(rows * cols for rows, cols in real.shape.values())
    # Rounding explains half a weight per row, and not a whole one.
    for sparsity in (0.9, 0.5 + rows / weights):
        write_mask(tmp_path / "m.pt", Mask(real.meta | {"sparsity": sparsity}, real.bits, real.shape))
        with pytest.raises(InputError, match="another version"):
            read_mask(tmp_path / "m.pt")


def test_a_bit_after_the_end_of_a_row_is_refused(tmp_path, mask):
    bits = mask.bits["a"]
    # The number of ones stays the same.
    bits[0, 0] &= bits[0, 0] - 1
    bits[0, -1] |= 0x80
    write_mask(tmp_path / "m.pt", mask)
    with pytest.raises(InputError, match="another version"):
        read_mask(tmp_path / "m.pt")
