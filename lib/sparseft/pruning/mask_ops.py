"""The mask file: packed bits a layer, as `torch.save` writes it, read here without torch.

    {"format_version": 1, "meta": {...}, "bits": {layer: uint8 (rows, ceil(cols / 8))}, "shape": {layer: [rows, cols]}}

bits are numpy.packbits(axis=-1, bitorder="little"), 1 = kept; the unused bits of a row's last byte are 0. A reader
MUST reject another format_version. `.safetensors` holds the same: one tensor a layer, meta and shapes as JSON in
the header's __metadata__. The .pt is a zip of raw storages and one pickle; the pickle is parsed with
pickletools, never executed.
"""

import json
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparseft.errors import InputError
from sparseft.files import atomic_file, sha256

FORMAT_VERSION = 1
SUFFIXES = {"pt": ".pt", "safetensors": ".safetensors"}


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


def write_mask(path: Path | str, mask: Mask) -> None:
    """Write a mask file, atomically; its suffix, .pt or .safetensors, chooses the format."""
    path = Path(path)
    write = _write_safetensors if path.suffix == ".safetensors" else _write_pt
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        write(stream, mask)


def read_mask(path: Path | str) -> Mask:
    """Read a mask file; the bits stay memory-mapped.

    Raises InputError where the file is missing, damaged, of another version, or inconsistent."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such mask file", "compute it with compute_masks.py")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
        shape = {layer: (int(rows), int(cols)) for layer, (rows, cols) in content["shape"].items()}
        mask = Mask(dict(content["meta"]), dict(content["bits"]), shape)
        consistent = content["format_version"] == FORMAT_VERSION and _consistent(mask)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a mask file ({error})", "compute it again with compute_masks.py") from None
    if not consistent:
        raise InputError(f"{path}: mask file of another version, or damaged", "compute it again with compute_masks.py")
    return mask


def check_mask(mask: Mask, path: Path | str, shapes: dict[str, tuple[int, ...]], digest: str | None = None) -> None:
    """Raise InputError, once, for all layers that differ from a model's `shapes`, or if `digest` is not its base's."""
    missing, foreign = sorted(shapes.keys() - mask.shape.keys()), sorted(mask.shape.keys() - shapes.keys())
    differing = sorted(layer for layer in shapes.keys() & mask.shape.keys() if mask.shape[layer] != shapes[layer])
    found = (("without a mask", missing), ("unknown to the model", foreign), ("of another shape", differing))
    faults = [f"{len(layers)} layers {fault} (first: {layers[0]})" for fault, layers in found if layers]
    if not faults and digest and mask.meta.get("base") != digest:
        faults = ["computed from other weights than this model's"]
    if faults:
        raise InputError(f"{path}: mask of another model: {', '.join(faults)}", "compute it for this model")


def mask_digest(path: Path | str) -> str:
    """sha256 of a mask file, as train.json, merge.json and the reports record it."""
    return sha256(path)


def _consistent(mask: Mask) -> bool:
    """Whether every layer's bits have the shape that `shape` asks for."""
    packed = {layer: (rows, -(-cols // 8)) for layer, (rows, cols) in mask.shape.items()}
    bits = {layer: array.shape for layer, array in mask.bits.items() if array.dtype == np.uint8}
    return bool(bits) and packed == bits


def _write_pt(stream, mask: Mask) -> None:
    import torch  # the format is torch's; reading needs it nowhere

    bits = {layer: torch.from_numpy(np.array(array)) for layer, array in mask.bits.items()}
    shape = {layer: list(shape) for layer, shape in mask.shape.items()}
    torch.save({"format_version": FORMAT_VERSION, "meta": mask.meta, "bits": bits, "shape": shape}, stream)


def _write_safetensors(stream, mask: Mask) -> None:
    from safetensors.numpy import save

    content = {"format_version": FORMAT_VERSION, "meta": mask.meta, "shape": mask.shape}
    stream.write(save(mask.bits, {"sparseft": json.dumps(content)}))


def _read_safetensors(path: Path) -> dict:
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        base = stream.tell()
    content = json.loads(header.pop("__metadata__")["sparseft"])
    data = np.memmap(path, np.uint8, "r")
    bits = {layer: data[base:][slice(*entry["data_offsets"])].reshape(entry["shape"]) for layer, entry in header.items()}
    return {**content, "bits": bits}


def _read_pt(path: Path) -> dict:
    data = np.memmap(path, np.uint8, "r")
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        program = archive.read(members["data.pkl"])

    def storage(key: str) -> np.ndarray:
        info = members[f"data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("a compressed storage")
        header = info.header_offset + 30  # a zip local header is 30 bytes, then the name and an extra field
        start = header + int(data[header - 4 : header].view("<u2").sum())
        return data[start : start + info.file_size]

    return _parse_pickle(program, storage)


def _parse_pickle(program: bytes, storage: Callable[[str], np.ndarray]) -> dict:
    """The plain data that `torch.save` pickled: dicts, lists, strings, numbers and uint8 tensors, nothing else.

    Raises ValueError on any other opcode or global."""
    stack, memo, marks = [], {}, []

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(program):
        match opcode.name:
            case "PROTO" | "STOP" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "GLOBAL":
                stack.append(_known_global(argument))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "SETITEMS":
                items = since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "SETITEM":
                key, value = stack[-2:]
                del stack[-2:]
                stack[-1][key] = value
            case "BINPERSID":
                stack[-1] = storage(stack[-1][2])  # ("storage", type, key, device, size)
            case "REDUCE":
                arguments = stack.pop()
                stack[-1] = _tensor(*arguments) if stack[-1] == "_rebuild_tensor_v2" else {}
            case other:
                raise ValueError(f"pickle opcode {other}")
    return stack.pop()


def _known_global(name: str) -> str:
    """The three globals of a file of uint8 tensors; Raises ValueError on any other."""
    known = ("torch._utils _rebuild_tensor_v2", "torch ByteStorage", "collections OrderedDict")
    if name not in known:
        raise ValueError(f"pickle global {name}")
    return name.split()[1]


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: object) -> np.ndarray:
    if stride != (size[1], 1):
        raise ValueError("a tensor that is not contiguous")
    return storage[offset : offset + size[0] * size[1]].reshape(size)
