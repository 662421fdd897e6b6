"""A Hugging Face checkpoint folder, read tensor by tensor as raw bits.

Format: github.com/huggingface/safetensors, "Format": 8 bytes little-endian header size, a JSON header
(name -> dtype, shape, data_offsets), then the tensors' bytes. Magnitudes of floats order like their bit
patterns without the sign, so pruning and validation need neither torch nor a conversion.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparseft.errors import InputError
from sparseft.storage.adapter_files import ADAPTER_CONFIG
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import check_regular, read_json

BITS = {"BF16": np.dtype("<u2"), "F16": np.dtype("<u2"), "F32": np.dtype("<u4")}
MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit
BLOCK = 1 << 20  # weights that are read at once, in whole rows
MANIFEST_VERSION = 2  # its digest covers configuration and tokenizer, and every weight is finite
INDEX = "model.safetensors.index.json"
# The files beside the weights that decide what a model computes: the configuration and the tokenizer.
SMALL_FILES = ("*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.*")
_RECORDS = ("manifest.json", "compact.json", "export.json")  # this project writes them beside a model
# The weights have a dtype themselves. The version says which transformers wrote the file.
_UNDECIDING = ("dtype", "torch_dtype", "transformers_version")
_MEND_FOLDER = "give a Hugging Face checkpoint folder: config.json and *.safetensors"
_MEND_FILE = "copy or prepare the checkpoint again"


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `nbytes` bytes at `start` of `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    """Read a checkpoint folder: its tensors by name in file order, its configuration, its digest.

    Raises InputError if there is no such folder, or if an adapter lies in it."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such model folder", _MEND_FOLDER)
        for path in self.folder.glob("[!.]*"):  # Whoever reads the folder, such as transformers, would wait for a pipe.
            if path.exists() and not path.is_dir():
                check_regular(path)
        # transformers would run the model with this adapter, which is in no digest.
        adapter = self.folder / ADAPTER_CONFIG
        if adapter.exists():
            raise InputError(
                f"{adapter}: an adapter in a model folder, which would change the model",
                "merge the adapter into the model, or move it to another folder",
            )

    @cached_property
    def config(self) -> dict:
        """config.json."""
        return read_json(self.folder / "config.json", _MEND_FOLDER)

    @cached_property
    def files(self) -> list[Path]:
        """The safetensors files: the one, which transformers prefers too, or those that the index names."""
        single, index = self.folder / "model.safetensors", self.folder / INDEX
        names = {single.name} if single.exists() or not index.exists() else _shards(index)
        for name in names:
            if Path(name).name != name:
                raise InputError(f"{index}: {name!r} leaves the model folder", _MEND_FILE)
            if not (self.folder / name).is_file():
                raise InputError(f"{self.folder / name}: no such file", _MEND_FILE)
        return [self.folder / name for name in sorted(names)]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of every file, in the order of their bytes. Raises InputError where two files hold one."""
        found: dict[str, Tensor] = {}
        for tensor in (tensor for file in self.files for tensor in read_header(file)[1]):
            if tensor.name in found:
                raise InputError(f"{tensor.file}: {tensor.name} is in {found[tensor.name].file.name} too", _MEND_FILE)
            found[tensor.name] = tensor
        return found

    def read(self, name: str) -> np.ndarray:
        """A tensor's bits: unsigned 16-bit words for BF16 and F16, 32-bit for F32, in its shape.

        Raises InputError for any other dtype."""
        tensor = self.tensors[name]
        word = _word(tensor)
        return np.fromfile(tensor.file, word, tensor.nbytes // word.itemsize, offset=tensor.start).reshape(tensor.shape)

    def read_bytes(self, name: str) -> bytes | memoryview:
        """A tensor's bytes, of any dtype."""
        tensor = self.tensors[name]
        with open(tensor.file, "rb") as stream:
            stream.seek(tensor.start)
            return stream.read(tensor.nbytes)

    def read_float32(self, name: str) -> np.ndarray:
        """A tensor's values, fp32."""
        return to_float32(self.read(name), self.tensors[name].dtype)

    def read_blocks(self, name: str, block: int) -> Iterator[np.ndarray]:
        """Yield a tensor's bits as `read` gives them, flat, in blocks of whole rows of about `block` weights.

        Every block is in the same buffer, so the next one overwrites it. Raises InputError as `read` does, and where the
        file has become shorter."""
        tensor = self.tensors[name]
        word = _word(tensor)
        rows = tensor.shape[0] if tensor.shape else 1
        cols = math.prod(tensor.shape[1:])
        step = max(1, block // max(1, cols))
        buffer = np.empty(min(step, rows) * cols, word)
        with open(tensor.file, "rb", buffering=0) as stream:
            stream.seek(tensor.start)
            for row in range(0, rows, step):
                content = buffer[: min(step, rows - row) * cols]
                _fill(stream, content.view(np.uint8).data, tensor)
                yield content

    def copy_rest(self, folder: Path) -> None:
        """Copy the files beside the weights to another folder."""
        for file in small_files(self.folder):
            shutil.copyfile(file, folder / file.name)

    def hashes(self) -> dict[str, str]:
        """Hash every file that decides a result, as it is now; returns its name -> sha256."""
        return {file.name: sha256(file) for file in (*self.files, *small_files(self.folder))}

    @property
    def prepared(self) -> bool:
        """Say whether `prepare_model` wrote this folder, and so has found every weight to be finite."""
        return (self.folder / "manifest.json").exists()

    @cached_property
    def digest(self) -> str:
        """Return one sha256 over all files that decide a result: the weights, the configuration, the tokenizer.

        In a prepared folder, the hashes of the weights come from manifest.json, because hashing gigabytes is slow. Raises
        InputError where a file is not the one that manifest.json records: weights are compared by size, others by hash."""
        if not self.prepared:
            return self.digest_of(self.hashes())
        recorded, _ = self._manifest()
        hashes = {file.name: sha256(file) for file in small_files(self.folder)}
        for file in self.files:
            if recorded.get(file.name, {}).get("bytes") != file.stat().st_size:
                raise self._not_recorded(file.name)
            hashes[file.name] = recorded[file.name]["sha256"]
        self.check_manifest(hashes)
        return self.digest_of(hashes)

    def check_manifest(self, hashes: dict[str, str]) -> None:
        """Raise InputError where a prepared folder's `hashes` are not those in manifest.json; any other folder passes."""
        if not self.prepared:
            return
        entries, digest = self._manifest()
        recorded = {name: entry["sha256"] for name, entry in entries.items()}
        altered = [name for name in hashes.keys() | recorded.keys() if hashes.get(name) != recorded.get(name)]
        if altered:
            raise self._not_recorded(min(altered))
        if digest != self.digest_of(hashes):
            raise InputError(f"{self.folder / 'manifest.json'}: its digest is not that of its files", _MEND_FILE)

    def digest_of(self, hashes: dict[str, str]) -> str:
        """Combine the hashes of this checkpoint's files: sha256 over sorted lines of `name sha256`.

        config.json enters by its content without what the weights or their writer say, so that a checkpoint keeps its
        digest when it is prepared. The index is left out, because the names of the weights' files are its content."""
        content = {key: value for key, value in self.config.items() if key not in _UNDECIDING}
        canonical = json.dumps(content, sort_keys=True).encode()
        parts = {name: digest for name, digest in hashes.items() if name != INDEX}
        parts["config.json"] = hashlib.sha256(canonical).hexdigest()
        lines = sorted(f"{name} {digest}\n" for name, digest in parts.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _manifest(self) -> tuple[dict[str, dict], str]:
        """Return the entries of manifest.json, {"bytes": ..., "sha256": ...} by file name, and its digest."""
        manifest = self.folder / "manifest.json"
        recorded = read_json(manifest, _MEND_FILE)
        try:
            entries = {
                name: {"bytes": entry["bytes"], "sha256": entry["sha256"]} for name, entry in recorded["files"].items()
            }
            version = recorded["format_version"]
            digest = recorded["digest"]
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{manifest}: not a manifest", _MEND_FILE) from None
        if version != MANIFEST_VERSION:
            what = f"{manifest}: a manifest of format {version}, not {MANIFEST_VERSION}"
            raise InputError(what, "prepare the model again")
        return entries, digest

    def _not_recorded(self, name: str) -> InputError:
        return InputError(f"{self.folder / name}: not the file that manifest.json records", _MEND_FILE)


def small_files(folder: Path) -> list[Path]:
    """Return the files beside the weights that decide what a model computes, sorted by name."""
    found = {file for pattern in SMALL_FILES for file in folder.glob(pattern) if file.is_file()}
    hidden = {file for file in found if file.name.startswith(".")}
    weights = {file for file in found if file.suffix == ".safetensors"}
    records = {folder / name for name in _RECORDS}
    return sorted(found - hidden - weights - records)


def read_header(file: Path, mend: str = _MEND_FILE) -> tuple[bytes, list[Tensor]]:
    """The header of a safetensors file, verbatim with its length, and its tensors by offset.

    Raises InputError where the file is truncated, its tensors overlap or leave holes, or it is none at all."""
    check_regular(file)
    size = file.stat().st_size
    with open(file, "rb") as stream:
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        body = stream.read(length) if len(head) == 8 and length <= min(size - 8, MAX_HEADER) else b""
    try:
        entries = {name: entry for name, entry in json.loads(body).items() if name != "__metadata__"}
        tensors = [_tensor(file, name, entry, 8 + length) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file}: truncated, or not a safetensors file", mend) from None
    tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    ends = [8 + length, *(tensor.start + tensor.nbytes for tensor in tensors)]
    if [*(tensor.start for tensor in tensors), size] != ends:
        raise InputError(f"{file}: truncated: {size} bytes are not what its header describes", mend)
    return head + body, tensors


def lay_out(file: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file that is not written yet, name -> (dtype, shape), one after the other."""
    found, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        found[name] = Tensor(name, file, dtype, shape, end, BITS[dtype].itemsize * math.prod(shape))
        end += found[name].nbytes
    base = len(safetensors_header(found.values()))
    return {name: replace(tensor, start=base + tensor.start) for name, tensor in found.items()}


def safetensors_header(tensors: Iterable[Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The header, with its length, of a file of `tensors`, one after the other, as the safetensors library writes it."""
    entries, start = {"__metadata__": metadata or {"format": "pt"}}, 0
    for tensor in tensors:
        offsets = [start, start + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        start = offsets[1]
    body = json.dumps(entries, separators=(",", ":")).encode()
    body = body.ljust(-(-len(body) // 8) * 8)  # the tensors start aligned
    return len(body).to_bytes(8, "little") + body


def to_float32(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The values of BF16, F16 or F32 bits, fp32, same shape."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if dtype == "F16" else bits.view(np.float32)


def infinity(dtype: str) -> int:
    """The bits of BF16's, F16's or F32's infinity: a magnitude from there on is infinite or not a number."""
    return {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[dtype]


def _word(tensor: Tensor) -> np.dtype:
    """The unsigned word that holds a value's bits. Raises InputError where a tensor is not in BF16, F16 or F32."""
    if tensor.dtype not in BITS:
        raise InputError(f"{tensor.file}: {tensor.name} is {tensor.dtype}", f"convert it to one of {', '.join(BITS)}")
    return BITS[tensor.dtype]


def _fill(stream: BinaryIO, content: memoryview, tensor: Tensor) -> None:
    """Read until `content` is full: one call returns 2 GiB at most."""
    while content:
        count = stream.readinto(content)
        if not count:
            raise InputError(f"{tensor.file}: ends within {tensor.name}", _MEND_FILE)
        content = content[count:]


def _shards(index: Path) -> set[str]:
    """The files that an index names."""
    names = read_json(index, _MEND_FILE).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: no weight_map of file names", _MEND_FILE)
    return set(names.values())


def _tensor(file: Path, name: str, entry: dict, base: int) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    width = BITS[entry["dtype"]].itemsize if entry["dtype"] in BITS else None
    if not all(type(number) is int and number >= 0 for number in (begin, end - begin, *shape)):
        raise ValueError(name)
    if width and end - begin != width * math.prod(shape):
        raise ValueError(name)
    return Tensor(name, file, entry["dtype"], shape, base + begin, end - begin)
