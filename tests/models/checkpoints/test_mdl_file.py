"""Read and write .mdl files: round trips, files that cerebras-pytorch wrote, and damaged or hostile ones."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.mdl import MdlFile, mdl_writer

pytestmark = pytest.mark.process
CSTORCH = Path(__file__).parents[4] / "shared/fixtures/cstorch"
needs_fixtures = pytest.mark.skipif(not CSTORCH.exists(), reason="needs the developers' folder ../shared")
VALUES = np.random.default_rng(0).integers(0, 2**16, (6, 5), np.uint16)


def write(path: Path, values: np.ndarray = VALUES, dtype: str = "BF16") -> Path:
    with mdl_writer(path) as writer:
        writer.create("w", dtype, values.shape)
        writer.write("w", (), values)
    return path


def read(path: Path) -> np.ndarray:
    file = MdlFile(path)
    return file.read(file.tensors["model.w"])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "BOOL", "I64", "U8"])
@pytest.mark.parametrize("shape", [(), (0, 4), (7,), (6, 5), (6, 3, 5)])
def test_what_is_written_is_read_bit_for_bit(tmp_path, dtype, shape):
    kind = {"BF16": "u2", "F16": "u2", "F32": "u4", "BOOL": "?", "I64": "i8", "U8": "u1"}[dtype]
    values = np.asarray(np.random.default_rng(0).integers(0, 2, shape) * (1 if kind == "?" else 97)).astype(kind)
    path = write(tmp_path / "x.mdl", values, dtype)
    tensor = MdlFile(path).tensors["model.w"]
    assert (tensor.dtype, tensor.shape) == (dtype, shape)
    assert read(path).dtype == values.dtype
    np.testing.assert_array_equal(read(path), values)


def test_parts_in_any_order_make_the_whole_and_are_read_alone(tmp_path):
    stack = np.arange(6 * 3 * 5, dtype=np.uint32).reshape(6, 3, 5)
    with mdl_writer(tmp_path / "x.mdl") as writer:
        writer.create("w", "F32", stack.shape)
        for expert in (2, 0, 1):
            writer.write("w", (slice(3, 6), expert), stack[3:6, expert])
            writer.write("w", (slice(0, 3), expert), stack[:3, expert])
    file = MdlFile(tmp_path / "x.mdl")
    np.testing.assert_array_equal(read(tmp_path / "x.mdl"), stack)
    np.testing.assert_array_equal(file.read(file.tensors["model.w"], (slice(1, 4), 2)), stack[1:4, 2])


def test_a_file_whose_writing_failed_is_absent(tmp_path):
    with pytest.raises(RuntimeError, match="half way"), mdl_writer(tmp_path / "x.mdl") as writer:
        writer.create("w", "BF16", VALUES.shape)
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


@needs_fixtures
def test_files_of_cerebras_pytorch_are_read():
    number = {path.name: len(MdlFile(path).tensors) for path in sorted(CSTORCH.glob("*.mdl"))}
    assert number == {"lora_step10.mdl": 184, "nested_bf16.mdl": 25, "nested_fp32.mdl": 25, "tied.mdl": 9}
    tied = MdlFile(CSTORCH / "tied.mdl")
    assert tied.tensors["model.lm_head.weight"] == tied.tensors["model.model.embed_tokens.weight"]
    assert tied.read(tied.tensors["model.a.b.c/d"]).shape == (2,)
    assert tied.leaves["model.set.1"]["scalar_value"] == 2


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    content = write(tmp_path / "x.mdl").read_bytes()
    for size in [*range(0, len(content), 97), len(content) - 1]:
        (tmp_path / "x.mdl").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"x\.mdl: truncated"):
            read(tmp_path / "x.mdl")


def set_meta(**changes: object):
    def change(file: h5py.File) -> None:
        leaf = json.loads(file.attrs["model.w.__metadata__"])
        leaf["model.w.__metadata__"] |= changes
        file.attrs["model.w.__metadata__"] = json.dumps(leaf)

    return change


def replace(create):
    """Return a change that puts another dataset in the place of model.w."""

    def change(file: h5py.File) -> None:
        del file["model.w"]
        create(file)

    return change


NOT_STORED = r"model\.w: .*not stored whole in this file, as its metadata says"
PLAIN = r"x\.mdl: .*is not plain data"
BAD = {
    "no mark of success": (lambda file: file.attrs.__delitem__("__SUCCESS__"), "__SUCCESS__ is not set"),
    "an older format": (lambda file: file.attrs.__setitem__("__version__", 0.4), r"its format 0\.4 is not 0\.5"),
    "no JSON": (lambda file: file.attrs.__setitem__("model.w.__metadata__", "{"), r"x\.mdl: truncated"),
    "another shape": (set_meta(shapes=[[5, 6]]), NOT_STORED),
    "what the appliance compressed": (set_meta(compressed=True), NOT_STORED),
    "a link to nowhere": (set_meta(__LINKED__=True, key="model.v"), r"model\.v"),
    "a chunk less": (
        replace(lambda f: f.create_dataset("model.w", (6, 5), "i2", chunks=(1, 5)).__setitem__(slice(5), 1)), NOT_STORED
    ),
    "a link out of the file": (
        replace(lambda f: f.__setitem__("model.w", h5py.ExternalLink("other.mdl", "model.w"))), NOT_STORED
    ),
    "bytes out of the file": (
        replace(lambda f: f.create_dataset("model.w", (6, 5), "i2", external=[("/etc/passwd", 0, 60)])), NOT_STORED
    ),
    "what a reader could unpickle": (set_meta(__TYPE__="ObjectSerializer", __BYTES__=True), PLAIN),
    "a type that a reader would import": (
        lambda f: f.attrs.modify("__spec__", f.attrs["__spec__"].replace("builtins.dict", "collections.defaultdict")),
        PLAIN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path, name):
    path = write(tmp_path / "x.mdl")
    write(tmp_path / "other.mdl")
    change, message = BAD[name]
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(InputError, match=message):
        read(path)
        MdlFile(path).content()


def test_a_link_is_the_tensor_that_it_names(tmp_path):
    with mdl_writer(tmp_path / "x.mdl") as writer:
        writer.create("w", "BF16", VALUES.shape)
        writer.write("w", (), VALUES)
        writer.link("tied", "w")
    file = MdlFile(tmp_path / "x.mdl")
    assert file.tensors["model.tied"] == file.tensors["model.w"]
    assert file.content() == {"model": {"w": file.tensors["model.w"], "tied": file.tensors["model.w"]}}
