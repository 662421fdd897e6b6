"""Write mask files while their bits are computed, in blocks and from several threads. No mask is in memory as a whole.

mask_file.py describes the formats. The bits are collected in nameless temporary files beside the masks, which the system
removes even after a crash. At the end, each mask is written from its temporary file.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from sparseft.checkpoints.checkpoint import Tensor, safetensors_header
from sparseft.masks.mask_file import FORMAT_VERSION, count_kept, row_bytes


@contextmanager
def mask_writer(paths: list[Path], metas: list[dict], shape: dict[str, tuple[int, int]]) -> Iterator["MaskWriter"]:
    """Yield a writer of one mask file per path. A file has the format of its suffix, .pt or .safetensors.

    metas: the metadata of each file, to which "reached" is added
    shape: layer -> (rows, cols)

    The files are written after the block. So give paths in a folder of `atomic_files`, with the other files of a pass. Then all
    files appear, or none."""
    writer = MaskWriter(paths, metas, shape)
    try:
        yield writer
        writer.finish()
    finally:
        writer.bits.clear()


class MaskWriter:
    """Write the mask files of several sparsities. A level is the index of a file, in the order of the paths.

    `kept`: layer -> int64 (levels,), the number of kept weights that were written."""

    def __init__(self, paths: list[Path], metas: list[dict], shape: dict[str, tuple[int, int]]) -> None:
        self.paths = paths
        self.metas = metas
        self.shape = shape
        self.kept = {layer: np.zeros(len(paths), np.int64) for layer in shape}
        ends = np.cumsum([0, *(rows * row_bytes(cols) for rows, cols in shape.values())]).tolist()
        self._places = dict(zip(shape, pairwise(ends), strict=True))
        self.bits = [_disk_array(path.parent, ends[-1]) for path in paths]

    def write(self, layer: str, offset: int, packed: np.ndarray, levels: range | None = None) -> None:
        """Write `packed`, uint8 (levels, n), at byte `offset` of a layer's bits in the files of `levels`, None meaning all.

        Blocks may come in any order. The blocks of one layer must come from one thread."""
        start = self._places[layer][0] + offset
        for level, block in zip(levels or range(len(self.paths)), packed, strict=True):
            self.bits[level][start : start + block.size] = block
            self.kept[layer][level] += count_kept(block)

    def record(self, **entries: object) -> None:
        """Add `entries` to the metadata of every file."""
        self.metas = [meta | entries for meta in self.metas]

    def finish(self) -> None:
        """Write the files. The reached sparsity is counted from the bits that were written."""
        total = sum(rows * cols for rows, cols in self.shape.values())
        for level, path in enumerate(self.paths):
            reached = 1 - sum(int(kept[level]) for kept in self.kept.values()) / total
            content = {"format_version": FORMAT_VERSION, "meta": self.metas[level] | {"reached": reached}}
            write = self._write_safetensors if path.suffix == ".safetensors" else self._write_pt
            write(path, content, self.bits[level])
            # This frees the disk space of the temporary file.
            self.bits[level] = None

    def _write_pt(self, path: Path, content: dict, bits: np.ndarray) -> None:
        """Write a file of `torch.save`. All layers are views of one tensor."""
        import torch

        whole = torch.from_numpy(bits)
        layers = {
            layer: whole[start:end].view(-1, row_bytes(self.shape[layer][1]))
            for layer, (start, end) in self._places.items()
        }
        content |= {"bits": layers, "shape": {layer: list(shape) for layer, shape in self.shape.items()}}
        # An open file gets the same bytes under any name, and says why it cannot be written.
        with open(path, "wb") as file:
            torch.save(content, file)

    def _write_safetensors(self, path: Path, content: dict, bits: np.ndarray) -> None:
        """Write the layers as tensors, and the rest as JSON in the header's metadata."""
        tensors = []
        for layer, (start, end) in self._places.items():
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
