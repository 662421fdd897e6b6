"""Read mask files, and write them while their bits are computed.

A mask file holds one bit per prunable weight, as `torch.save` writes it:

    {"format_version": 1, "meta": {...}, "bits": {layer: uint8 (rows, ceil(cols / 8))}, "shape": {layer: [rows, cols]}}

The bits are numpy.packbits(axis=-1, bitorder="little"), and 1 means kept. The unused bits of a row's last byte are 0.
A reader must reject every other format_version. A `.safetensors` file holds the same: one tensor per layer, and the
rest as JSON in the header's __metadata__.

The bits are written in blocks and from several threads, to nameless temporary files beside the masks, which the system
removes even after a crash. At the end, each mask is written from its temporary file. So no mask is in memory as a
whole.
"""

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import safe_open

from sparseft.axes.grid import MASK_NAME, Cell
from sparseft.axes.methods import IMPORTED, PATTERNS
from sparseft.common.errors import InputError, one_line
from sparseft.models.checkpoints.checkpoint import Checkpoint, Tensor, safetensors_header
from sparseft.models.checkpoints.layers import differences, prunable_shapes
from sparseft.storage.bits import row_bytes, unpack
from sparseft.storage.hashes import sha256
from sparseft.storage.record import remake_advice

FORMAT_VERSION = 1
# The name of a mask file of the workflow, which says its method and sparsity.
_WORKFLOW_NAME = re.compile(MASK_NAME.format(sparsity="([0-9]{2})", method="([a-z0-9_]+)") + r"\.(?:pt|safetensors)")
# The patterns whose masks may reach another sparsity than the requested one.
_INEXACT = {pattern.name for pattern in (*PATTERNS, IMPORTED) if not pattern.has_exact_counts}


@dataclass(frozen=True)
class Mask:
    """Hold a mask in memory: `bits` uint8 (rows, ceil(cols / 8)) and `shape` (rows, cols), both by layer."""

    meta: dict
    bits: dict[str, np.ndarray]
    shape: dict[str, tuple[int, int]]

    def kept(self, layer: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a layer's mask, or some rows of it, bool (rows, cols), True = kept."""
        return unpack(self.bits[layer][rows], self.shape[layer])


def zero_pruned(values: np.ndarray, packed: np.ndarray) -> None:
    """Multiply the bits of weights (rows, cols) by their mask in place: +0.0 where `packed`, (rows, ceil(cols / 8)), is
    0."""
    np.multiply(values, unpack(packed, values.shape), out=values)


def count_kept(packed: np.ndarray) -> int:
    """Return the number of ones in packed bits of any shape."""
    return int(np.count_nonzero(np.unpackbits(packed)))


def read_mask(path: Path | str) -> Mask:
    """Return the mask of a file. Its bits stay memory-mapped.

    Raises InputError if the file is missing, damaged, of another version or inconsistent, or if it has a name of the
    workflow and holds another mask."""
    path = Path(path)
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
        shape = {layer: (int(rows), int(cols)) for layer, (rows, cols) in content["shape"].items()}
        mask = Mask(dict(content["meta"]), dict(content["bits"]), shape)
        if content["format_version"] != FORMAT_VERSION or not _is_consistent(mask):
            raise ValueError("it is of another version, or damaged")
    # A file may hold anything, and its readers raise many kinds of errors.
    except Exception as error:
        if "Cannot allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise InputError(f"{path}: not a mask file ({one_line(error)})", remake_advice(path)) from error
    name = _WORKFLOW_NAME.fullmatch(path.name)
    method = mask.meta.get("method")
    sparsity = mask.meta.get("sparsity")
    if name and (method, sparsity) != (name[2], int(name[1]) / 100):
        raise InputError(f"{path}: holds a mask of {method} at {sparsity}", remake_advice(path))
    return mask


def read_checked_mask(path: Path, checkpoint: Checkpoint, cell: Cell | None = None) -> tuple[Mask, str]:
    """Return a mask of this model, and of the cell if there is one, and its sha256. Raises InputError if it is
    another's."""
    mask = read_mask(path)
    check_mask(mask, path, prunable_shapes(checkpoint), checkpoint.digest)
    if cell:
        check_run(mask, path, cell)
    return mask, sha256(path)


def check_mask(mask: Mask, path: Path | str, shapes: Mapping[str, tuple[int, ...]], digest: str | None = None) -> None:
    """Raise InputError if a mask does not fit the `shapes` of a model's layers, or if `digest` is not that of its base.

    One error names every kind of difference."""
    faults = differences(mask.shape, shapes, "layers")
    if not faults and digest and mask.meta.get("base") != digest:
        faults = ["computed from other weights than this model's, or with another configuration or tokenizer"]
    if faults:
        raise InputError(f"{path}: mask of another model: {', '.join(faults)}", "compute it for this model")


def check_run(mask: Mask, path: Path | str, cell: Cell) -> None:
    """Raise InputError if a mask has another method or sparsity than a run or cell, or was made with another task."""
    method = mask.meta.get("method")
    sparsity = mask.meta.get("sparsity")
    # A mask that looked at no task fits every task.
    task = mask.meta.get("task", cell.task)
    if (method, sparsity, task) != (cell.method, cell.sparsity / 100, cell.task):
        raise InputError(
            f"{path}: a mask of {method} at {sparsity} for {task}, not of {cell.id}", "give the run's own mask"
        )


def _is_consistent(mask: Mask) -> bool:
    """Return whether the bits have the shapes that `shape` says, zeros after each row's end, and as many ones as `meta`
    says."""
    packed_shapes = {layer: (rows, row_bytes(cols)) for layer, (rows, cols) in mask.shape.items()}
    shapes_of_bits = {layer: array.shape for layer, array in mask.bits.items() if array.dtype == np.uint8}
    if not shapes_of_bits or packed_shapes != shapes_of_bits:
        return False
    total = sum(rows * cols for rows, cols in mask.shape.values()) + mask.meta.get("removed_weights", 0)
    kept = sum(map(count_kept, mask.bits.values()))
    if mask.meta.get("reached") != 1 - kept / total:
        return False
    # Each scope rounds its count by at most half a weight, and no scope is smaller than a row.
    if "pattern" in mask.meta and mask.meta["pattern"] not in _INEXACT:
        rows = sum(rows for rows, _ in mask.shape.values())
        if abs(total - kept - mask.meta["sparsity"] * total) > max(1, rows / 2):
            return False
    last_bytes = [(mask.bits[layer][:, -1], cols % 8) for layer, (_, cols) in mask.shape.items() if cols % 8]
    return not any((last >> used).any() for last, used in last_bytes)


def _read_pt(path: Path) -> dict:
    """Return the content of a file of `torch.save`. Raises ValueError if a byte of it has changed."""
    # Only reading a mask needs torch, and many modules need this one.
    import torch

    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} has another checksum")
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {**content, "bits": {layer: bits.numpy() for layer, bits in content["bits"].items()}}


def _read_safetensors(path: Path) -> dict:
    """Return the content of a safetensors mask file, in the form of a .pt one."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["sparseft"])
        return {**content, "bits": {layer: file.get_tensor(layer).numpy() for layer in content["shape"]}}


class MaskWriter:
    """Write the mask files of several sparsities. A level is the index of a file, in the order of the paths.

    A file has the format of its suffix, .pt or .safetensors. `finish` writes them. So give paths in a folder of
    `atomic_files`, with the other files of a pass. Then all files appear, or none.

    metas: the metadata of each file, to which "reached" is added; they may still change until the end
    shape: layer -> (rows, cols)
    `kept`: layer -> int64 (levels,), the number of kept weights that were written."""

    def __init__(self, paths: list[Path], metas: list[dict], shape: dict[str, tuple[int, int]]) -> None:
        self.paths = paths
        self.metas = metas
        self.shape = shape
        self.kept = {layer: np.zeros(len(paths), np.int64) for layer in shape}
        ends = np.cumsum([0, *(rows * row_bytes(cols) for rows, cols in shape.values())]).tolist()
        self._spans = dict(zip(shape, pairwise(ends), strict=True))
        self.bits = [_disk_array(path.parent, ends[-1]) for path in paths]

    def write(self, layer: str, offset: int, packed: np.ndarray, levels: Sequence[int] = ()) -> None:
        """Write `packed`, uint8 (levels, n), at byte `offset` of a layer's bits in the files of `levels`, by default of
        all.

        Blocks may come in any order. The blocks of one layer must come from one thread."""
        start = self._spans[layer][0] + offset
        for level, block in zip(levels or range(len(self.paths)), packed, strict=True):
            self.bits[level][start : start + block.size] = block
            self.kept[layer][level] += count_kept(block)

    def mask(self, layer: str, level: int) -> np.ndarray:
        """Return a mask of a layer that was written, bool (rows, cols)."""
        start, end = self._spans[layer]
        rows, _ = shape = self.shape[layer]
        return unpack(self.bits[level][start:end].reshape(rows, -1), shape)

    def reached(self, level: int) -> float:
        """Return the sparsity of the bits that were written, and of the removed weights."""
        weights = sum(rows * cols for rows, cols in self.shape.values())
        total = weights + self.metas[level].get("removed_weights", 0)
        return 1 - sum(int(kept[level]) for kept in self.kept.values()) / total

    def finish(self) -> None:
        """Write the files."""
        for level, path in enumerate(self.paths):
            meta = self.metas[level] | {"reached": self.reached(level)}
            content = {"format_version": FORMAT_VERSION, "meta": meta}
            write = self._write_safetensors if path.suffix == ".safetensors" else self._write_pt
            write(path, content, self.bits[level])
            # This frees the disk space of the temporary file.
            self.bits[level] = np.empty(0, np.uint8)

    def _write_pt(self, path: Path, content: dict, bits: np.ndarray) -> None:
        """Write a file of `torch.save`. All layers are views of one tensor."""
        import torch

        whole = torch.from_numpy(bits)
        layers = {
            layer: whole[start:end].view(-1, row_bytes(self.shape[layer][1]))
            for layer, (start, end) in self._spans.items()
        }
        content |= {"bits": layers, "shape": {layer: list(shape) for layer, shape in self.shape.items()}}
        # An open file gets the same bytes under any name, and says why it cannot be written.
        with open(path, "wb") as file:
            torch.save(content, file)

    def _write_safetensors(self, path: Path, content: dict, bits: np.ndarray) -> None:
        """Write the layers as tensors, and the rest as JSON in the header's metadata."""
        tensors = []
        for layer, (start, end) in self._spans.items():
            rows, cols = self.shape[layer]
            tensors.append(Tensor(layer, path, "U8", (rows, row_bytes(cols)), start, end - start))
        metadata = {"sparseft": json.dumps(content | {"shape": self.shape})}
        with open(path, "wb") as file:
            file.write(safetensors_header(tensors, metadata))
            file.write(bits.data)


def _disk_array(folder: Path, size: int) -> np.ndarray:
    """Return uint8 (size,) that lies in a nameless file in `folder`. Raises OSError if the disk has no room for it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        # Without this, a full disk would kill the process when it writes to the memory.
        os.posix_fallocate(file.fileno(), 0, max(1, size))
        return np.memmap(file, np.uint8, "r+", shape=(size,))
