"""The mask file: packed bits a layer, as `torch.save` writes it, read here without torch (mask_writer.py writes it).

    {"format_version": 1, "meta": {...}, "bits": {layer: uint8 (rows, ceil(cols / 8))}, "shape": {layer: [rows, cols]}}

bits are numpy.packbits(axis=-1, bitorder="little"), 1 = kept; the unused bits of a row's last byte are 0. A reader
MUST reject another format_version. `.safetensors` holds the same: one tensor a layer, meta and shapes as JSON in
the header's __metadata__.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparseft.checkpoints.checkpoint import read_header
from sparseft.errors import InputError
from sparseft.masks.mask_kernels import count_ones
from sparseft.masks.torch_file import read_torch_file
from sparseft.methods import get_method
from sparseft.storage.record import again
from sparseft.study.config import Masks
from sparseft.study.grid import MASK_NAME, Cell

FORMAT_VERSION = 1
_NAMED = re.compile(MASK_NAME.format(sparsity="([0-9]{2})", method="([a-z_]+)") + r"\.(?:pt|safetensors)")
_DAMAGES = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, zipfile.BadZipFile
)  # fmt: skip


@dataclass(frozen=True)
class Mask:
    """A mask in memory: `bits` uint8 (rows, ceil(cols / 8)) and `shape` (rows, cols) by layer."""

    meta: dict
    bits: dict[str, np.ndarray]
    shape: dict[str, tuple[int, int]]

    def kept(self, layer: str) -> np.ndarray:
        """A layer's mask, bool (rows, cols), True = kept."""
        return unpack(self.bits[layer], self.shape[layer])


def pack(kept: np.ndarray) -> np.ndarray:
    """bool (rows, cols) -> uint8 (rows, ceil(cols / 8))."""
    return np.packbits(kept, axis=-1, bitorder="little")


def unpack(bits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 (rows, ceil(cols / 8)) -> bool (rows, cols)."""
    return np.unpackbits(bits, axis=-1, count=shape[1], bitorder="little").view(bool)


def row_bytes(cols: int) -> int:
    """The bytes of a packed row."""
    return -(-cols // 8)


def read_mask(path: Path | str) -> Mask:
    """Read a mask file; the bits stay memory-mapped.

    Raises InputError where the file is missing, damaged, of another version, inconsistent, in other coordinates, or not
    what its name says, where that is one of the workflow's."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such mask file", "compute it with compute_masks.py")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
        shape = {layer: (int(rows), int(cols)) for layer, (rows, cols) in content["shape"].items()}
        mask = Mask(dict(content["meta"]), dict(content["bits"]), shape)
        consistent = content["format_version"] == FORMAT_VERSION and _consistent(mask)
    except InputError:
        raise
    except _DAMAGES as error:
        raise InputError(f"{path}: not a mask file ({error})", again(path)) from None
    if not consistent:
        raise InputError(f"{path}: mask file of another version, or damaged", again(path))
    if (coordinates := mask.meta.get("coordinates", "hf")) != "hf":
        raise InputError(
            f"{path}: a mask in {coordinates} coordinates, not in Hugging Face's", "compute it with compute_masks.py"
        )
    named = _NAMED.fullmatch(path.name)
    found = (mask.meta.get("method"), mask.meta.get("sparsity"))
    if named and found != (named[2], int(named[1]) / 100):
        raise InputError(f"{path}: holds a mask of {found[0]} at {found[1]}", again(path))
    return mask


def check_mask(mask: Mask, path: Path | str, shapes: dict[str, tuple[int, ...]], digest: str | None = None) -> None:
    """Raise InputError, once, for all layers that differ from a model's `shapes`, or if `digest` is not its base's."""
    missing, foreign = sorted(shapes.keys() - mask.shape.keys()), sorted(mask.shape.keys() - shapes.keys())
    differing = sorted(layer for layer in shapes.keys() & mask.shape.keys() if mask.shape[layer] != shapes[layer])
    found = (("without a mask", missing), ("unknown to the model", foreign), ("of another shape", differing))
    faults = [f"{len(layers)} layers {fault} (first: {layers[0]})" for fault, layers in found if layers]
    if not faults and digest and mask.meta.get("base") != digest:
        faults = ["computed from other weights than this model's, or another configuration or tokenizer"]
    if faults:
        raise InputError(f"{path}: mask of another model: {', '.join(faults)}", "compute it for this model")


def check_run(mask: Mask, path: Path | str, cell: Cell) -> None:
    """Raise InputError if a mask is not of the method, the sparsity and, where it looked at one, the task of a run or cell."""
    found = (mask.meta.get("method"), mask.meta.get("sparsity"), mask.meta.get("task", cell.task))
    if found != (cell.method, cell.sparsity / 100, cell.task):
        raise InputError(
            f"{path}: a mask of {found[0]} at {found[1]} for {found[2]}, not of {cell.id}",
            "give the run's own mask",
        )


def _consistent(mask: Mask) -> bool:
    """Whether every layer's bits have the shape that `shape` asks for, zeros after a row's end, and as many ones as meta says."""
    packed = {layer: (rows, row_bytes(cols)) for layer, (rows, cols) in mask.shape.items()}
    bits = {layer: array.shape for layer, array in mask.bits.items() if array.dtype == np.uint8}
    if not bits or packed != bits:
        return False
    total = sum(rows * cols for rows, cols in mask.shape.values())
    kept = sum(int(count_ones(np.ascontiguousarray(array).reshape(1, -1))[0]) for array in mask.bits.values())
    if mask.meta.get("reached") != 1 - kept / total:
        return False
    if (
        "pattern" in mask.meta and mask.meta["pattern"] != "structured"
    ):  # a scope rounds by half a weight, a row at least
        rows = sum(rows for rows, _ in mask.shape.values())
        if abs(total - kept - mask.meta["sparsity"] * total) > max(1, rows / 2):
            return False
    rests = {layer: mask.shape[layer][1] % 8 for layer in bits}
    return not any(rest and (mask.bits[layer][:, -1] >> rest).any() for layer, rest in rests.items())


def _read_safetensors(path: Path) -> dict:
    header, tensors = read_header(path, again(path))
    content = json.loads(json.loads(header[8:])["__metadata__"]["sparseft"])
    data = np.memmap(path, np.uint8, "r")
    bytes_of = {t.name: data[t.start : t.start + t.nbytes].reshape(t.shape) for t in tensors if t.dtype == "U8"}
    return {**content, "bits": bytes_of}


def mask_meta(method: str, percents: list[int], settings: Masks, base: str) -> dict:
    """What the masks of a method say of themselves, but for calibration, sparsity and what was reached.

    `base`: the digest of the model. Raises InputError for what the method cannot do."""
    pattern = get_method(method).pattern.name
    importance = get_method(method).importance
    name = importance.name if importance else "none"
    meta = {"method": method, "pattern": pattern, "importance": name, "coordinates": "hf"}
    return meta | {"base": base, **settings.used_by(method), "scope": settings.scope_of(method, percents)}
