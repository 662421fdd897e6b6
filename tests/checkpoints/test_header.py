"""Read headers of safetensors files: written by hand, altered, hostile and cut, and compare with the library."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from sparseft.checkpoints.checkpoint import Checkpoint, read_header
from sparseft.errors import InputError

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
        # We may read more, because the library refuses a dtype that it does not know.
        return
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
