"""Files of torch.save are read without torch, as torch.load reads them."""

import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask, pack, read_mask
from sparseft.masks.torch_file import read_torch_file

from masks import write_mask

CONTENTS = {
    "numbers": {"a": [0, 255, 256, 65536, -1, 2**31 - 1, -(2**31), 2**40, -(2**70)], "b": (1.5, -0.0, float("inf"))},
    "words": {"": "", "é": "x" * 300, "n": None, "t": True, "f": False, 3: "a key that is a number"},
    "nests": {"a": {"b": {"c": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}]}}},
    "ordered": OrderedDict(b=1, a=2),
    "a shared list": (lambda shared: {"a": shared, "b": shared})([1, 2]),
    "tensors": {"a": torch.arange(6, dtype=torch.uint8).reshape(2, 3), "empty": torch.zeros(0, 4, dtype=torch.uint8)},
    "views": (lambda base: {"whole": base, "part": base[1:3]})(torch.arange(24, dtype=torch.uint8).reshape(4, 6)),
    "many": {f"layer.{number}": torch.full((2, 2), number % 256, dtype=torch.uint8) for number in range(300)},
}


def plain(content):
    """Return the content with arrays and tensors as (shape, dtype, bytes), so that contents compare with ==."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, torch.Tensor | np.ndarray):
        array = np.asarray(content)
        return (array.shape, array.dtype.str, array.tobytes())
    return content


@pytest.mark.parametrize("name", CONTENTS)
def test_the_content_is_what_torch_loads(tmp_path, name):
    torch.save(CONTENTS[name], tmp_path / "x.pt")
    ours = read_torch_file(tmp_path / "x.pt")
    assert plain(ours) == plain(torch.load(tmp_path / "x.pt", weights_only=True)) == plain(CONTENTS[name])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=50)
@given(content=st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_any_plain_content_reads_back(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x.pt"
    torch.save(content, path)
    assert plain(read_torch_file(path)) == plain(content)


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(2, 2)},
        {"a": torch.ones(2, 3, dtype=torch.uint8).T},
        {"a": {1, 2}},
        {"a": np.float64(1)},
        {"a": torch.float32},
    ],
    ids=["float tensor", "not contiguous", "set", "numpy scalar", "dtype"],
)
def test_anything_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"pickle operation|not contiguous"):
        read_torch_file(tmp_path / "x.pt")


@pytest.fixture(scope="module", params=[".pt", ".safetensors"])
def whole(request, tmp_path_factory):
    """Return the path, the bytes and the content of a mask file."""
    path = tmp_path_factory.mktemp("whole") / f"m{request.param}"
    bits = {"a": pack(np.random.default_rng(0).random((3, 17)) < 0.5), "bb": pack(np.ones((2, 8), bool))}
    write_mask(path, Mask({"method": "random", "seed": -3, "exact": True}, bits, {"a": (3, 17), "bb": (2, 8)}))
    return path, path.read_bytes(), read_mask(path)


@pytest.mark.long
@settings(deadline=None, max_examples=400)
@given(place=st.integers(0, 4095), flip=st.integers(1, 255))
def test_an_altered_byte_is_refused_or_harmless(tmp_path_factory, whole, place, flip):
    path, content, mask = whole
    altered = bytearray(content)
    altered[place % len(content)] ^= flip
    file = tmp_path_factory.mktemp("altered") / path.name
    file.write_bytes(altered)
    try:
        found = read_mask(file)
    except InputError:
        return
    if path.suffix == ".pt":  # every member has a checksum; the other format has none
        assert (found.meta, found.shape, plain(found.bits)) == (mask.meta, mask.shape, plain(mask.bits))


@settings(deadline=None, max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), min_size=1, max_size=4))
def test_an_altered_pickle_with_a_sound_checksum_is_refused_or_read_as_torch_reads_it(tmp_path_factory, whole, edits):
    path, _, _ = whole
    if path.suffix != ".pt":
        return
    file = tmp_path_factory.mktemp("pickle") / "m.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            content = bytearray(source.read(name))
            for place, byte in edits if name.endswith("data.pkl") else []:
                content[place % len(content)] = byte
            target.writestr(name, bytes(content))
    try:
        read_mask(file)
    except InputError:
        return
    try:
        theirs = torch.load(file, weights_only=True)
    except Exception:  # torch raises many kinds, because it is stricter about tensors
        return
    assert plain(read_torch_file(file)) == plain(theirs)


def test_a_compressed_file_is_refused(tmp_path, whole):
    path, _, _ = whole
    if path.suffix != ".pt":
        return
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match=r"data\.pkl is compressed"):
        read_mask(tmp_path / "m.pt")


@pytest.mark.parametrize("shape", [[float("inf"), 17], [float("nan"), 17], [3], "ab", None, [-3, 17], [3, 18]])
def test_a_mask_whose_shape_is_no_shape_is_refused(tmp_path, shape):
    bits = {"a": torch.zeros(3, 3, dtype=torch.uint8)}
    torch.save({"format_version": 1, "meta": {"reached": 1.0}, "bits": bits, "shape": {"a": shape}}, tmp_path / "m.pt")
    # The 3 bytes of a row fit 17 to 24 columns.
    if shape == [3, 18]:
        assert read_mask(tmp_path / "m.pt").shape == {"a": (3, 18)}
        return
    with pytest.raises(InputError, match=r"m\.pt: (not a mask file|mask file of another version)"):
        read_mask(tmp_path / "m.pt")
