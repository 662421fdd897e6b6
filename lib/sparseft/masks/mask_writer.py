"""Write mask files while their bits are computed, in blocks and from several threads. No mask is in memory as a whole.

mask_file.py describes the formats. The reached sparsity is counted from the bits that were written.
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

# Bytes in the header of a safetensors file for the reached sparsity, which is known only at the end.
_ROOM_FOR_REACHED = 32


@contextmanager
def mask_writer(paths: list[Path], metas: list[dict], shape: dict[str, tuple[int, int]]) -> Iterator["MaskWriter"]:
    """Yield a writer of one mask file per path. A file has the format of its suffix, .pt or .safetensors.

    metas: the metadata of each file, to which "reached" is added
    shape: layer -> (rows, cols)

    The files are complete after the block. If the block fails, they stay incomplete. So give paths in a folder of
    `atomic_files`, with the other files of a pass. Then all files appear, or none."""
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
    """Write the mask files of several sparsities. A level is the index of a file, in the order of the paths.

    `kept`: layer -> int64 (levels,), the number of kept weights that were written."""

    def __init__(self, files: list["_PtFile | _SafetensorsFile"], shape: dict[str, tuple[int, int]]) -> None:
        self.files = files
        self.shape = shape
        self.kept = {layer: np.zeros(len(files), np.int64) for layer in shape}
        self._numbers = {layer: number for number, layer in enumerate(shape)}

    def write(self, layer: str, offset: int, packed: np.ndarray, levels: range | None = None) -> None:
        """Write `packed`, uint8 (levels, n), at byte `offset` of a layer's bits in the files of `levels`, None meaning all.

        The blocks of one layer must come in order and from one thread. Layers may come in any order, from any thread."""
        levels = levels or range(len(self.files))
        self.kept[layer][levels] += count_ones(packed)
        for level, block in zip(levels, packed, strict=True):
            self.files[level].write(self._numbers[layer], offset, memoryview(block))

    def record(self, **entries: object) -> None:
        """Add `entries` to the metadata of every file, which must be .pt.

        The header of a .safetensors file has no room for them."""
        for file in self.files:
            file.meta = file.meta | entries

    def finish(self) -> None:
        """Complete the files after their last bits. Until then, they cannot be read."""
        total = sum(rows * cols for rows, cols in self.shape.values())
        for level, file in enumerate(self.files):
            file.finish(1 - sum(int(kept[level]) for kept in self.kept.values()) / total)


def mask_bytes(meta: dict, shape: dict[str, tuple[int, int]]) -> int:
    """Return the size of a .pt mask file in bytes.

    It is measured on a file without its bits, which are a hole and take no disk space."""
    with tempfile.TemporaryFile() as file:
        _PtFile(file.fileno(), meta, shape).finish(0.0)
        return os.fstat(file.fileno()).st_size


class _PtFile:
    """Write a mask file in the format of `torch.save`."""

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
    """Write a mask file in the format safetensors. Its header is first in the file, but is written last, into reserved bytes."""

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
        # Rounded up to a multiple of 8 bytes.
        self.header_size = (len(self._header(0.0)) + _ROOM_FOR_REACHED + 7) // 8 * 8

    def write(self, number: int, offset: int, content: memoryview) -> None:
        """Write `content` at `offset` of the bits of layer `number`."""
        write_at(self.descriptor, content, 8 + self.header_size + self.starts[number] + offset)

    def finish(self, reached: float) -> None:
        """Write the header's size and the header."""
        header = self.header_size.to_bytes(8, "little") + self._header(reached).ljust(self.header_size)
        write_at(self.descriptor, header, 0)

    def _header(self, reached: float) -> bytes:
        """Return the header in JSON, not yet padded to its size."""
        content = {"format_version": FORMAT_VERSION, "meta": self.meta | {"reached": reached}, "shape": self.shape}
        return json.dumps({"__metadata__": {"sparseft": json.dumps(content)}, **self.tensors}).encode()
