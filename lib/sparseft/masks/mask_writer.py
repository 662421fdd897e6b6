"""Write mask files while their bits are computed: any block of any layer, from several threads, with no mask in memory.

The formats are those of mask_file.py. The sparsity that was reached is counted from the bits that were written.
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
from sparseft.masks.torch_file import StoredTensor, TorchFileWriter, write_at

# Room in the header of a safetensors file for the number that is written there last, in bytes.
_ROOM_FOR_REACHED = 32


@contextmanager
def mask_writer(paths: list[Path], metas: list[dict], shape: dict[str, tuple[int, int]]) -> Iterator["MaskWriter"]:
    """Yield the writer of one mask file per path, .pt or .safetensors by its suffix. The block's end completes the files.

    `metas`: one per path, without "reached", which is added. `shape`: (rows, cols) by layer.
    The files are written where they are, and stay incomplete if the block fails. So give paths in a folder of
    `atomic_files`, together with the other files of a pass: then all of them appear, or none."""
    with ExitStack() as stack:
        files = []
        for path, meta in zip(paths, metas, strict=True):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            stack.callback(os.close, descriptor)
            kind = _SafetensorsFile if path.suffix == ".safetensors" else _PtFile
            files.append(kind(descriptor, meta, shape))
        writer = MaskWriter(files, shape)
        yield writer
        writer.finish()


class MaskWriter:
    """Write the mask files of several sparsities. A level is the number of a file, in the order of the paths.

    `kept`: layer -> int64 (levels,), the number of ones that were written."""

    def __init__(self, files: list["_PtFile | _SafetensorsFile"], shape: dict[str, tuple[int, int]]) -> None:
        self.files = files
        self.shape = shape
        self.kept = {layer: np.zeros(len(files), np.int64) for layer in shape}
        self._numbers = {layer: number for number, layer in enumerate(shape)}

    def write(self, layer: str, offset: int, packed: np.ndarray, levels: range | None = None) -> None:
        """Write uint8 (levels, n) at byte `offset` of a layer's bits. `levels`: all of them if None.

        The blocks of one layer must come in order and from one thread. Layers may come in any order, from any thread."""
        levels = levels or range(len(self.files))
        self.kept[layer][levels] += count_ones(packed)
        for level, block in zip(levels, packed, strict=True):
            self.files[level].write(self._numbers[layer], offset, memoryview(block))

    def finish(self) -> None:
        """Write what surrounds the bits, after the last of them. Without it a file cannot be read."""
        total = sum(rows * cols for rows, cols in self.shape.values())
        for level, file in enumerate(self.files):
            file.finish(1 - sum(int(kept[level]) for kept in self.kept.values()) / total)


def mask_bytes(meta: dict, shape: dict[str, tuple[int, int]]) -> int:
    """Return the size of a .pt mask file in bytes. It is measured on a file whose bits are a hole, which takes no disk space."""
    with tempfile.TemporaryFile() as file:
        _PtFile(file.fileno(), meta, shape).finish(0.0)
        return os.fstat(file.fileno()).st_size


class _PtFile:
    """A mask file as `torch.save` writes it."""

    def __init__(self, descriptor: int, meta: dict, shape: dict[str, tuple[int, int]]) -> None:
        self.meta = meta
        self.shape = shape
        self.file = TorchFileWriter(descriptor, [rows * row_bytes(cols) for rows, cols in shape.values()])
        self.write = self.file.write

    def finish(self, reached: float) -> None:
        """Write the content that refers to the bits, and the zip's directory."""
        bits = {
            layer: StoredTensor(number, (rows, row_bytes(cols)))
            for number, (layer, (rows, cols)) in enumerate(self.shape.items())
        }
        shape = {layer: list(shape) for layer, shape in self.shape.items()}
        meta = self.meta | {"reached": reached}
        self.file.finish({"format_version": FORMAT_VERSION, "meta": meta, "bits": bits, "shape": shape})


class _SafetensorsFile:
    """A mask file as safetensors. Its header comes first in the file, but is written last, into room that was left for it."""

    def __init__(self, descriptor: int, meta: dict, shape: dict[str, tuple[int, int]]) -> None:
        self.descriptor = descriptor
        self.meta = meta
        self.shape = shape
        ends = np.cumsum([rows * row_bytes(cols) for rows, cols in shape.values()]).tolist()
        self.starts = [0, *ends[:-1]]
        self.tensors = {
            layer: {"dtype": "U8", "shape": [rows, row_bytes(cols)], "data_offsets": [start, end]}
            for (layer, (rows, cols)), start, end in zip(shape.items(), self.starts, ends, strict=True)
        }
        # A multiple of 8 bytes.
        self.header_size = (len(self._header(0.0)) + _ROOM_FOR_REACHED + 7) // 8 * 8

    def write(self, number: int, offset: int, content: memoryview) -> None:
        """Write `content` at `offset` of the bits of layer `number`."""
        write_at(self.descriptor, content, 8 + self.header_size + self.starts[number] + offset)

    def finish(self, reached: float) -> None:
        """Write the header's size and the header."""
        header = self.header_size.to_bytes(8, "little") + self._header(reached).ljust(self.header_size)
        write_at(self.descriptor, header, 0)

    def _header(self, reached: float) -> bytes:
        content = {"format_version": FORMAT_VERSION, "meta": self.meta | {"reached": reached}, "shape": self.shape}
        return json.dumps({"__metadata__": {"sparseft": json.dumps(content)}, **self.tensors}).encode()
