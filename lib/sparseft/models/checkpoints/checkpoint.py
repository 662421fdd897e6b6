"""Read a Hugging Face checkpoint folder tensor by tensor, as raw bits.

A safetensors file has three parts (github.com/huggingface/safetensors, "Format"):

    8 bytes     the size of the header, little-endian
    header      JSON: name -> dtype, shape, data_offsets
    the rest    the bytes of the tensors

Without the sign, the bit patterns of floats have the order of their magnitudes. So pruning and validation compare bits,
and need neither torch nor a conversion."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from sparseft.axes.architectures import find_architecture
from sparseft.axes.architectures.architecture import Architecture
from sparseft.common.errors import InputError
from sparseft.storage.bits import BITS
from sparseft.storage.hashes import hash_files, sha256_of_text
from sparseft.storage.reading import read_json
from sparseft.storage.record import ADAPTER_CONFIG

# torch's name of a dtype -> safetensors' name.
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
# The number of weights that are read at once, in whole rows. A block and its masks stay in the second-level cache.
BLOCK = 1 << 20
# In a folder with a manifest of this version, every weight is finite. Its digest covers the configuration and the
# tokenizer.
MANIFEST_VERSION = 2
INDEX = "model.safetensors.index.json"
# The files beside the weights that decide what a model computes: the configuration and the tokenizer.
SMALL_FILES = ("*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.*")
# The card of a model, which also states its licence. Its owner may edit it.
README = "README.md"
# The files that say what somebody may do with a model. They decide nothing that it computes.
_TERMS = ("license", "licence", "copying", "notice", "use_policy")
# Patterns of their names, whatever the case of the letters.
TERMS = tuple("".join(f"[{letter}{letter.upper()}]" for letter in name) + "*" for name in _TERMS)
# This project writes these files beside a model.
_RECORDS = ("manifest.json", "compact.json", "export.json")
# Keys of config.json that the digest leaves out. The tensors state their dtype themselves, and the version only says
# which transformers wrote the file.
_UNDECIDING = ("dtype", "torch_dtype", "transformers_version")
_GIVE_FOLDER = "give a Hugging Face checkpoint folder: config.json and *.safetensors"
_REPLACE_FILE = "copy or prepare the checkpoint again"


@dataclass(frozen=True)
class Tensor:
    """Locate one tensor: the `nbytes` bytes of `file` that begin at byte `start`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    def changed(self, dtype: str, shape: tuple[int, ...]) -> "Tensor":
        """Return the tensor in BF16, F16 or F32 and in another shape. Its place is still the old one."""
        return replace(self, dtype=dtype, shape=shape, nbytes=BITS[dtype].itemsize * math.prod(shape))


@dataclass(frozen=True)
class Checkpoint:
    """Read a checkpoint folder: its tensors by name in file order, its configuration and its digest.

    Raises InputError if the folder contains an adapter."""

    folder: Path

    def __post_init__(self) -> None:
        # transformers would run the model with this adapter, which is in no digest.
        adapter = self.folder / ADAPTER_CONFIG
        if adapter.exists():
            raise InputError(
                f"{adapter}: an adapter in a model folder, which would change the model",
                "merge the adapter into the model, or move it to another folder",
            )

    @cached_property
    def config(self) -> dict:
        """Return the content of config.json. Raises InputError if it asks for quantised weights."""
        config = read_json(self.folder / "config.json", _GIVE_FOLDER)
        # transformers would quantise the model when it loads it, so other weights would be run than were pruned and
        # validated.
        if config.get("quantization_config"):
            raise InputError(
                f"{self.folder}: config.json has a quantization_config",
                "give the model in bfloat16, float16 or float32",
            )
        return config

    @property
    def architecture(self) -> Architecture:
        """Return the model's architecture. Raises InputError if it is unknown."""
        return find_architecture(self.config.get("architectures"), self.folder)

    @cached_property
    def files(self) -> list[Path]:
        """Return the safetensors files, sorted: model.safetensors if it exists, else those in the index, as in
        transformers."""
        files = [self.folder / "model.safetensors"]
        index = self.folder / INDEX
        if index.exists() and not files[0].exists():
            names = read_json(index, _GIVE_FOLDER).get("weight_map", {}).values()
            files = [self.folder / name for name in sorted(set(names))]
        for file in files:
            # An index may come from a stranger, so it names no file outside the folder.
            if file.parent != self.folder or not file.is_file():
                raise InputError(f"{file}: no such file in the model folder", _GIVE_FOLDER)
        return files

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of every file by name, in the order of their bytes."""
        return {tensor.name: tensor for file in self.files for tensor in read_header(file)[1]}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Return a tensor's bits in its shape, as unsigned words: 16 bits for BF16 and F16, 32 bits for F32.

        Of some `rows`, no others are read. Raises InputError for any other dtype."""
        tensor = self.tensors[name]
        bits = np.empty((rows.stop - rows.start, *tensor.shape[1:]) if rows else tensor.shape, _word(tensor))
        _fill(bits, tensor, tensor.start + (rows.start * tensor.nbytes // tensor.shape[0] if rows else 0))
        return bits

    def map(self, name: str) -> np.ndarray:
        """Return a tensor's bits as `read` gives them, mapped from its file. What is written to them is only in this
        memory."""
        tensor = self.tensors[name]
        return np.memmap(tensor.file, _word(tensor), "c", tensor.start, tensor.shape)

    def read_bytes(self, name: str) -> memoryview:
        """Return the bytes of a tensor of any dtype, mapped from its file."""
        tensor = self.tensors[name]
        return np.memmap(tensor.file, np.uint8, "r", tensor.start, (tensor.nbytes,)).data

    def read_blocks(self, name: str, block: int) -> Iterator[np.ndarray]:
        """Yield a tensor's bits as `read` gives them, flat, in blocks of whole rows of about `block` weights.

        Every block is in the same buffer, so the next one overwrites it."""
        tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        columns = max(1, math.prod(tensor.shape[1:]))
        buffer = np.empty(max(1, block // columns) * columns, _word(tensor))
        for start in range(0, count, len(buffer)):
            bits = buffer[: count - start]
            _fill(bits, tensor, tensor.start + start * bits.itemsize)
            yield bits

    def totals(self) -> dict[str, int]:
        """Return the bytes of the weights' files, and the number of parameters in them."""
        return {
            "bytes": sum(file.stat().st_size for file in self.files),
            "parameters": sum(math.prod(tensor.shape) for tensor in self.tensors.values()),
        }

    def copy_rest(self, folder: Path) -> None:
        """Copy the files beside the weights to another folder, with the licence of the model."""
        for file in (*small_files(self.folder), *files_like(self.folder, TERMS)):
            shutil.copyfile(file, folder / file.name)

    def hashes(self) -> dict[str, str]:
        """Hash every file that decides a result, and return its name -> sha256."""
        return hash_files([*self.files, *small_files(self.folder)])

    @property
    def prepared(self) -> bool:
        """Return whether `prepare_model` wrote this folder. It has then checked that every weight is finite."""
        return (self.folder / "manifest.json").exists()

    @cached_property
    def digest(self) -> str:
        """Return one sha256 over all files that decide a result: the weights, the configuration and the tokenizer.

        In a prepared folder, the hashes of the weights come from manifest.json, because hashing gigabytes is slow.
        Raises InputError if a file is not the one that manifest.json records. The files of the weights are compared by
        size, and the others by hash."""
        if not self.prepared:
            return self.digest_of(self.hashes())
        recorded = self._manifest()
        hashes = hash_files(small_files(self.folder))
        for file in self.files:
            entry = recorded.get(file.name, {})
            hashes[file.name] = entry["sha256"] if entry.get("bytes") == file.stat().st_size else "of another size"
        self.check_manifest(hashes)
        return self.digest_of(hashes)

    def check_manifest(self, hashes: dict[str, str]) -> None:
        """Raise InputError if the `hashes` of a prepared folder are not those in manifest.json."""
        if not self.prepared:
            return
        recorded = {name: entry["sha256"] for name, entry in self._manifest().items()}
        if altered := hashes.items() ^ recorded.items():
            what = f"{self.folder / min(altered)[0]}: it is not the file that manifest.json records"
            raise InputError(what, _REPLACE_FILE)

    def digest_of(self, hashes: dict[str, str]) -> str:
        """Return the sha256 over sorted lines of `name sha256`, from the hashes of this checkpoint's files.

        config.json is hashed without the dtype and the version of its writer, so that a checkpoint keeps its digest
        when it is prepared. The index is left out, because it only names the files of the weights."""
        content = {key: value for key, value in self.config.items() if key not in _UNDECIDING}
        parts = {name: digest for name, digest in hashes.items() if name != INDEX}
        parts["config.json"] = sha256_of_text(json.dumps(content, sort_keys=True))
        return sha256_of_text("".join(sorted(f"{name} {digest}\n" for name, digest in parts.items())))

    def _manifest(self) -> dict[str, dict]:
        """Return the entries of manifest.json by file name, {"bytes": ..., "sha256": ...}."""
        manifest = self.folder / "manifest.json"
        recorded = read_json(manifest, _REPLACE_FILE)
        if recorded.get("format_version") != MANIFEST_VERSION:
            raise InputError(f"{manifest}: not a manifest of format {MANIFEST_VERSION}", "prepare the model again")
        return recorded["files"]


def small_files(folder: Path) -> list[Path]:
    """Return the files beside the weights that decide what a model computes, sorted by name."""
    return sorted(
        file
        for file in files_like(folder, SMALL_FILES)
        if file.name not in _RECORDS and file.suffix != ".safetensors" and not file.name.startswith(".")
    )


def files_like(folder: Path, patterns: Iterable[str]) -> set[Path]:
    """Return the files of a folder whose names fit one of the patterns."""
    return {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}


def read_header(file: Path) -> tuple[bytes, list[Tensor]]:
    """Return the header of a safetensors file, and its tensors in the order of their bytes.

    The header has the bytes of the file, with its length before it. The library checks that the tensors fill the file.
    Raises InputError if they do not, for example because the file is truncated."""
    try:
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated, or not a safetensors file ({error})", _REPLACE_FILE) from None
    with open(file, "rb") as stream:
        head = stream.read(8)
        body = stream.read(int.from_bytes(head, "little"))
    start = len(head + body)
    tensors = []
    for name, entry in json.loads(body).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors.append(Tensor(name, file, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin))
    return head + body, sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes))


def safetensors_header(tensors: Iterable[Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return the header of a file with `tensors` in this order, with its length before it.

    It has the bytes that the safetensors library writes."""
    entries: dict[str, dict] = {"__metadata__": metadata or {"format": "pt"}}
    start = 0
    for tensor in tensors:
        end = start + tensor.nbytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        start = end
    body = json.dumps(entries, separators=(",", ":")).encode()
    # The tensors start at a multiple of 8 bytes.
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


def _word(tensor: Tensor) -> np.dtype:
    """Return the unsigned word that holds a value's bits. Raises InputError for a dtype without one."""
    if tensor.dtype not in BITS:
        what = f"{tensor.file}: {tensor.name} is in {tensor.dtype}"
        raise InputError(what, f"convert it to one of {', '.join(BITS)}")
    return BITS[tensor.dtype]


def _fill(bits: np.ndarray, tensor: Tensor, start: int) -> None:
    """Read the bits of a tensor from byte `start` of its file on. Raises InputError if the file has become shorter."""
    with open(tensor.file, "rb") as stream:
        stream.seek(start)
        if stream.readinto(bits.reshape(-1).view(np.uint8).data) < bits.nbytes:
            raise InputError(f"{tensor.file}: ends within {tensor.name}", _REPLACE_FILE)
