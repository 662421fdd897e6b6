"""Mask files, written as the bits come: any block of any layer, from several threads, with no mask in memory.

The formats are those of mask_ops.py. What pruning reached is counted from the bits that were written.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from sparseft.masks.mask_file import FORMAT_VERSION, row_bytes
from sparseft.masks.mask_kernels import count_ones
from sparseft.masks.torch_file import Storage, TorchFileWriter
from sparseft.storage.files import atomic_file, write_at


class MaskWriter:
    """The mask files of several sparsities: one a level, in the order of `metas`.

    `kept`: layer -> int64 (levels,), the ones that were written."""

    def __init__(self, files: list["_PtFile | _SafetensorsFile"], shape: dict[str, tuple[int, int]]) -> None:
        self.files = files
        self.shape = shape
        self.kept = {layer: np.zeros(len(files), np.int64) for layer in shape}
        self.places = {layer: place for place, layer in enumerate(shape)}

    def write(self, layer: str, offset: int, packed: np.ndarray, levels: range | None = None) -> None:
        """Write uint8 (levels, n) at byte `offset` of a layer's bits, to all levels or to those named.

        Blocks of one layer come in order, from one thread; layers in any order, from any."""
        levels = levels or range(len(self.files))
        self.kept[layer][levels] += count_ones(packed)
        for level, block in zip(levels, packed, strict=True):
            self.files[level].write(self.places[layer], offset, memoryview(block))

    def finish(self) -> None:
        """Write what frames the bits, after the last of them; a file without it cannot be read."""
        total = sum(rows * cols for rows, cols in self.shape.values())
        for level, file in enumerate(self.files):
            file.finish(1 - sum(int(kept[level]) for kept in self.kept.values()) / total)


@contextmanager
def mask_writer(paths: list[Path], metas: list[dict], shape: dict[str, tuple[int, int]]) -> Iterator[MaskWriter]:
    """Open a mask file a path, .pt or .safetensors by its suffix; all of them appear at the end, or none.

    `metas` lack "reached", which is added."""
    with ExitStack() as stack:
        files = []
        for path, meta in zip(paths, metas, strict=True):
            descriptor = os.open(stack.enter_context(atomic_file(path)), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            stack.callback(os.close, descriptor)
            kind = _SafetensorsFile if path.suffix == ".safetensors" else _PtFile
            files.append(kind(descriptor, meta, shape))
        yield MaskWriter(files, shape)
        for file in files:  # a disk may refuse as late as here; after it, files are only renamed
            os.fsync(file.descriptor)


def mask_bytes(meta: dict, shape: dict[str, tuple[int, int]]) -> int:
    """The size of a .pt mask file, from one whose bits are a hole: it takes no room on the disk."""
    with tempfile.TemporaryFile() as file:
        _PtFile(file.fileno(), meta, shape).finish(0.0)
        return os.fstat(file.fileno()).st_size


class _PtFile:
    def __init__(self, descriptor: int, meta: dict, shape: dict[str, tuple[int, int]]) -> None:
        self.descriptor, self.meta, self.shape = descriptor, meta, shape
        self.file = TorchFileWriter(descriptor, [rows * row_bytes(cols) for rows, cols in shape.values()])
        self.write = self.file.write

    def finish(self, reached: float) -> None:
        bits = {
            layer: Storage(key, (rows, row_bytes(cols))) for key, (layer, (rows, cols)) in enumerate(self.shape.items())
        }
        shape = {layer: list(shape) for layer, shape in self.shape.items()}
        meta = self.meta | {"reached": reached}
        self.file.finish({"format_version": FORMAT_VERSION, "meta": meta, "bits": bits, "shape": shape})


class _SafetensorsFile:
    """The header comes first in the file and is written last, into a room that holds the longest number."""

    def __init__(self, descriptor: int, meta: dict, shape: dict[str, tuple[int, int]]) -> None:
        self.descriptor, self.meta, self.shape = descriptor, meta, shape
        ends = np.cumsum([rows * row_bytes(cols) for rows, cols in shape.values()]).tolist()
        self.starts = [0, *ends[:-1]]
        self.tensors = {
            layer: {"dtype": "U8", "shape": [rows, row_bytes(cols)], "data_offsets": [start, end]}
            for (layer, (rows, cols)), start, end in zip(shape.items(), self.starts, ends, strict=True)
        }
        self.room = -(-(len(self._header(0.0)) + 32) // 8) * 8

    def write(self, key: int, offset: int, content: memoryview) -> None:
        write_at(self.descriptor, content, 8 + self.room + self.starts[key] + offset)

    def finish(self, reached: float) -> None:
        header = self.room.to_bytes(8, "little") + self._header(reached).ljust(self.room)
        write_at(self.descriptor, header, 0)

    def _header(self, reached: float) -> bytes:
        content = {"format_version": FORMAT_VERSION, "meta": self.meta | {"reached": reached}, "shape": self.shape}
        return json.dumps({"__metadata__": {"sparseft": json.dumps(content)}, **self.tensors}).encode()
