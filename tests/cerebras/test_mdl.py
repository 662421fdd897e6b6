"""Our reader and writer of .mdl files beside cerebras-pytorch's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sparseft.models.checkpoints.mdl import MdlFile, mdl_writer

cstorch = pytest.importorskip("cerebras.pytorch", reason="needs cerebras-pytorch (make test-cerebras)")
FIXTURES = Path(__file__).parents[3] / "shared/fixtures"
FILES = sorted(FIXTURES.rglob("*.mdl"))
needs_fixtures = pytest.mark.skipif(not FILES, reason="needs the developers' folder ../shared")
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
KINDS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.bool: "BOOL", torch.int64: "I64"}


def flat(tree: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a loaded state by dotted key."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {key: tensor for name, child in pairs for key, tensor in flat(child, f"{prefix}.{name}".strip(".")).items()}


def bits(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes; the package's tensors are filled when they are copied."""
    real = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return real.view(INTEGERS[real.element_size()]).numpy().tobytes()


@needs_fixtures
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_tensor_of_a_real_file_is_what_the_package_loads(path):
    ours, theirs = MdlFile(path), flat(cstorch.load(str(path)))
    assert len(FILES) == 6
    assert ours.tensors.keys() == theirs.keys()
    for key, tensor in ours.tensors.items():
        assert (tensor.dtype, tensor.shape) == (KINDS.get(theirs[key].dtype, "U8"), tuple(theirs[key].shape))
        assert ours.read(tensor).tobytes() == bits(theirs[key]), key


@pytest.mark.parametrize("dtype", KINDS)
def test_what_we_write_the_package_loads_and_saves_to_what_we_read(tmp_path, dtype):
    values = torch.randint(0, 2 if dtype == torch.bool else 99, (6, 4, 10)).to(dtype)
    array = values.view(INTEGERS[values.element_size()]).numpy()
    words = array.view({"BF16": "u2", "F16": "u2", "F32": "u4", "BOOL": "?", "I64": "i8"}[KINDS[dtype]])
    with mdl_writer(tmp_path / "ours.mdl") as writer:
        for key, part in (("model.stack", words), ("model.matrix", words[:, 0]), ("model.norm", words[:, 0, 0])):
            writer.create(key, KINDS[dtype], part.shape)
            writer.write(key, (), part)
        writer.link("model.tied", "model.matrix")
    loaded = cstorch.load(str(tmp_path / "ours.mdl"))
    matrix = values[:, 0]
    expected = {"model.stack": values, "model.matrix": matrix, "model.norm": matrix[:, 0], "model.tied": matrix}
    assert loaded["model"].keys() == expected.keys()
    for key, tensor in expected.items():
        assert loaded["model"][key].dtype == dtype
        assert bits(loaded["model"][key]) == bits(tensor)
    cstorch.save({"model": {"w": values}}, str(tmp_path / "theirs.mdl"))
    file = MdlFile(tmp_path / "theirs.mdl")
    np.testing.assert_array_equal(file.read(file.tensors["model.w"]), words)
