"""Read and write Cerebras checkpoints, `.mdl`, tensor by tensor and without cerebras-pytorch.

The format is HDF5, version 0.5. A tensor is the dataset of its dotted key, compressed by LZ4. bfloat16 is stored as int16.
The root's attributes describe the tree: `__spec__`, and a JSON text `{key}.__metadata__` per leaf. `__SUCCESS__` is set
last, so a file without it is only partly written. A link stands for a tied tensor. Any other Python object is a dill
pickle, which can run code and is never opened.
Source: cerebras/pytorch/storage/save.py and load.py of cerebras-pytorch 2.6.0 and 2.10.0, the same in both.
"""

import io
import json
import math
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import h5py
import hdf5plugin
import numpy as np

from sparseft.checkpoints.checkpoint import BITS
from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_file

VERSION = 0.5
_SUFFIX = ".__metadata__"
# torch's name of a dtype -> (safetensors' name, numpy's name of what is stored, its number in Cerebras' RtFx).
_DTYPES = {
    "torch.bfloat16": ("BF16", "int16", 15),
    "torch.float16": ("F16", "float16", 10),
    "torch.float32": ("F32", "float32", 11),
    "torch.float64": ("F64", "float64", 12),
    "torch.bool": ("BOOL", "bool", 1),
    "torch.int16": ("I16", "int16", 3),
    "torch.int32": ("I32", "int32", 4),
    "torch.int64": ("I64", "int64", 5),
    "torch.uint8": ("U8", "uint8", 6),
}
_STORED = {name: (stored, torch, rtfx) for torch, (name, stored, rtfx) in _DTYPES.items()}
_TENSOR = "TorchTensorSerializer"
# Leaves of these types consist only of their metadata, and have no dataset.
_PLAIN = {"ScalarSerializer", "StringSerializer", "NoneSerializer", "LinkedObject"}
_NODES = {None, "builtins.dict", "builtins.list", "builtins.tuple"}
# The number of HDF5's LZ4 filter.
_LZ4 = 32004
# One byte of LZ4 stands for at most 255 bytes.
_LZ4_RATIO = 256
# The size of a chunk in bytes, in whole rows.
_CHUNK = 1 << 20
# The bytes of decompressed chunks that HDF5 keeps, because blocks of rows need not end where chunks end.
_CACHE = 1 << 25
# The seconds of CPU, and in all, after which reading a file's description is stopped. A sound file needs a few.
_CPU_SECONDS = 60
_SECONDS = 1800
_REPLACE_FILE = "copy or write the file again"


@dataclass(frozen=True)
class MdlTensor:
    """Describe a tensor: the key of its dataset, and its dtype in safetensors' spelling (BF16, BOOL, I64, ...).

    A link has the key of the tensor that it shares."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MdlFile:
    """Read an `.mdl` file, which stays open while it is used.

    Raises InputError if it is not such a file, is truncated, has another format, or is only partly written."""

    path: Path

    @cached_property
    def file(self) -> h5py.File:
        """Return the open file."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file", "name an .mdl file")
        if fatal_signal := _fatal_signal(self):
            what = f"{self.path}: damaged, or made to do harm: reading it ends in {fatal_signal}"
            raise InputError(what, _REPLACE_FILE)
        return self._open()

    def _open(self) -> h5py.File:
        """Open the file. Raises InputError if it has another format, or is only partly written."""
        with self._damages():
            file = h5py.File(self.path, "r", locking="best-effort", rdcc_nbytes=_CACHE)
            version = file.attrs.get("__version__")
            is_complete = file.attrs.get("__SUCCESS__", False)
        if version != VERSION:
            raise InputError(f"{self.path}: .mdl format {version}, not {VERSION}", "save it with cerebras-pytorch 2.x")
        if not is_complete:
            raise InputError(f"{self.path}: partly written: __SUCCESS__ is not set", "use a complete checkpoint")
        return file

    @cached_property
    def leaves(self) -> dict[str, dict]:
        """Return the metadata of every leaf of the tree, by dotted key."""
        with self._damages():
            texts = {key.removesuffix(_SUFFIX): text for key, text in self.file.attrs.items() if key.endswith(_SUFFIX)}
            return {key: json.loads(text)[key + _SUFFIX] for key, text in texts.items()}

    @cached_property
    def tensors(self) -> dict[str, MdlTensor]:
        """Return the tensors by dotted key. Raises InputError if one is not as its metadata says, or is incomplete."""
        tensors = {key: self._tensor(key) for key in self.leaves}
        return {key: tensor for key, tensor in tensors.items() if tensor}

    def check_plain(self, branch: str) -> None:
        """Raise InputError, naming the key, if a pickled object is below the key `branch`, such as "model"."""
        pickled = [key for key, meta in self.leaves.items() if key.startswith(f"{branch}.") and "__BYTES__" in meta]
        if pickled:
            raise InputError(
                f"{self.path}: {pickled[0]} is a pickled object, which is not opened because it could run code",
                "save the file again without it",
            )

    def check_loadable(self) -> None:
        """Raise InputError, naming the key, unless the whole file consists of numbers, texts and tensors.

        cerebras-pytorch loads those without unpickling. It trusts a leaf's metadata, and even more its dataset's."""
        with self._damages():
            [_, text] = json.loads(self.file.attrs["__spec__"])
            [_, tree] = json.loads(text)
            odd = [str(node) for node in set(_node_types(tree)) - _NODES]
            odd += [key for key in self.leaves if not self._is_plain_leaf(key)]
            odd += [key for key in self.file if not self._is_plain_dataset(key)]
        if odd:
            raise InputError(f"{self.path}: {odd[0]} is not plain data", "save the file again without it")

    def _is_plain_leaf(self, key: str) -> bool:
        """Return whether a leaf's metadata is complete and describes a number, a text, a link or a tensor."""
        leaf = json.loads(self.file.attrs[key + _SUFFIX])
        meta = self.leaves[key]
        kind = meta.get("__TYPE__")
        expected = {"__NUMPY__", "__TORCH__"} if kind == _TENSOR else {"__NONE__"}
        marks = {name for name in ("__NONE__", "__NUMPY__", "__TORCH__", "__BYTES__", "__H5_TYPE__") if name in meta}
        return (
            leaf == {"__spec__": _spec({key: "*"}), "__objects__": [key], key + _SUFFIX: meta}
            and kind in (_TENSOR, *_PLAIN)
            and marks == expected
            and ("key" in meta) == (kind == "LinkedObject")
        )

    def _is_plain_dataset(self, key: str) -> bool:
        """Return whether a key of the file is a dataset in this file, whose own metadata describes a tensor."""
        if type(self.file.get(key, getlink=True)) is not h5py.HardLink or not isinstance(self.file[key], h5py.Dataset):
            return False
        attributes = self.file[key].attrs
        return attributes.get("__TYPE__") == _TENSOR and not {"__BYTES__", "__H5_TYPE__", "key"} & set(attributes)

    def read(self, tensor: MdlTensor, selection: object = ()) -> np.ndarray:
        """Return what `selection`, a slice or a tuple of slices and numbers, selects of a tensor.

        Floats come as unsigned words of their bits (BF16 and F16: 16, F32: 32), other values as they are."""
        with self._damages(tensor.key):
            values = np.asarray(self.file[tensor.key][selection])
        return values.view(BITS[tensor.dtype]) if tensor.dtype in BITS else values

    def _tensor(self, key: str) -> MdlTensor | None:
        """Return the tensor of a leaf, or of the leaf that it links to. Return None for a number, a text or None."""
        with self._damages(key):
            meta = self.leaves[key]
            if meta.get("__LINKED__"):
                key = meta["key"]
                meta = self.leaves[key]
            if not meta.get("__TORCH__"):
                return None
            dtype, stored, _ = _DTYPES[meta["dtypes"][0]]
            tensor = MdlTensor(key, dtype, tuple(meta["shapes"][0]))
            self._check_stored(tensor, stored)
        return tensor

    def _check_stored(self, tensor: MdlTensor, stored: str) -> None:
        """Raise ValueError unless all of a tensor is in this file. It reads no tensor, so it takes no memory."""
        # HDF5 makes groups of a key with slashes.
        parts = tensor.key.split("/")
        links = [self.file.get("/".join(parts[: depth + 1]), getlink=True) for depth in range(len(parts))]
        if not all(type(link) is h5py.HardLink for link in links):
            raise ValueError("it lies in another file")
        dataset = self.file[tensor.key]
        if dataset.is_virtual or dataset.external or _filters(dataset) - {_LZ4}:
            raise ValueError("it lies in another file, or is not compressed by LZ4")
        # The appliance may have compressed it, in its own format.
        is_packed = self.leaves[tensor.key].get("compressed")
        if is_packed or (dataset.shape, dataset.dtype) != (tensor.shape, np.dtype(stored)):
            raise ValueError("it is not stored as its metadata says")
        if not _complete(dataset, self.path):
            raise ValueError("parts of it are missing")

    @contextmanager
    def _damages(self, key: str = "") -> Iterator[None]:
        """Raise InputError for whatever h5py and json raise on a damaged file."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            place = f"{self.path}: {key}" if key else f"{self.path}"
            raise InputError(f"{place}: truncated, or not an .mdl file ({error})", _REPLACE_FILE) from None


class MdlWriter:
    """Write the tensors below one key of the tree, in any order and in parts. `finish` makes the file complete."""

    def __init__(self, file: h5py.File, branch: str, target: "Target") -> None:
        self.file = file
        self.branch = branch
        self.target = target
        self.leaves: dict[str, dict] = {}

    def create(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Make room for a tensor; `dtype` in safetensors' spelling."""
        stored, torch, rtfx = _STORED[dtype]
        meta = {
            "__TORCH__": True,
            "shapes": [shape],
            "dtypes": [torch],
            "rtfx_dtypes": [rtfx],
            "__TYPE__": _TENSOR,
            "__NUMPY__": True,
            "compressed": False,
        }
        # A tensor without values, or a single number, cannot be compressed or divided into chunks.
        has_chunks = min(shape, default=0) > 0
        options = {"chunks": _chunks(shape, np.dtype(stored).itemsize), **hdf5plugin.LZ4()} if has_chunks else {}
        dataset = self.file.create_dataset(f"{self.branch}.{key}", shape, stored, **options)
        dataset.attrs.update(meta)
        self.leaves[key] = meta

    def write(self, key: str, selection: object, values: np.ndarray) -> None:
        """Write a part of a tensor. `values` are as `MdlFile.read` returns them."""
        dataset = self.file[f"{self.branch}.{key}"]
        dataset[selection] = values.view(dataset.dtype)
        self.target.check()

    def link(self, key: str, other: str) -> None:
        """Tie a tensor to another."""
        self.leaves[key] = {
            "key": f"{self.branch}.{other}",
            "__LINKED__": True,
            "__TYPE__": "LinkedObject",
            "__NONE__": True,
        }

    def finish(self) -> None:
        """Write the tree, and then the mark that the file is complete."""
        attributes = self.file.attrs
        attributes["__spec__"] = json.dumps(_spec({self.branch: dict.fromkeys(self.leaves, "*")}))
        attributes["__version__"] = VERSION
        for key, meta in self.leaves.items():
            name = f"{self.branch}.{key}"
            leaf = {"__spec__": _spec({name: "*"}), "__objects__": [name], name + _SUFFIX: meta}
            attributes[name + _SUFFIX] = json.dumps(leaf)
        attributes["__SUCCESS__"] = True


@contextmanager
def mdl_writer(path: Path, branch: str) -> Iterator[MdlWriter]:
    """Yield a writer of the tensors below `branch`, such as "model". The file appears complete, or not at all."""
    with atomic_file(path) as temporary, Target(temporary, "w+b") as target:
        try:
            with h5py.File(target, "w", rdcc_nbytes=_CACHE) as file:
                writer = MdlWriter(file, branch, target)
                yield writer
                writer.finish()
        finally:
            target.check()


class Target(io.FileIO):
    """Be the file that HDF5 writes to. It hides a full disk, because HDF5 would crash when it closes the file.

    `check` raises the hidden error."""

    error: OSError | None = None

    def write(self, content: memoryview) -> int:
        """Write all of `content`, and return its length, even if the disk is full."""
        unwritten = memoryview(content).cast("B")
        try:
            while unwritten and not self.error:
                unwritten = unwritten[super().write(unwritten) :]
        except OSError as error:
            self.error = error
        return len(content)

    def check(self) -> None:
        """Raise the OSError of the first write that failed."""
        if self.error:
            raise self.error


def _fatal_signal(file: MdlFile) -> str | None:
    """Return the signal that ends a process which reads all descriptions of the file's tensors; None if it survives.

    HDF5 is written in C. A damaged file can make it loop without end, or crash. So a child with limits reads it first."""
    child = os.fork()
    if not child:
        _try_to_read(file.path)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None


def _try_to_read(path: Path) -> NoReturn:
    """Read the descriptions of all tensors within limits of time, and end this process."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        trial = MdlFile(path)
        # The trial must not start a child of its own.
        vars(trial)["file"] = trial._open()
        _ = trial.tensors
    except BaseException:
        # The parent will meet the same bad input, and report it.
        pass
    finally:
        os._exit(0)


def _node_types(node: dict) -> Iterator[str | None]:
    """Yield the types that a tree's text names. Its reader would make objects of them."""
    yield node["type"]
    for child in node["children_spec"]:
        yield from _node_types(child)


def _filters(dataset: h5py.Dataset) -> set[int]:
    """Return the numbers of the filters that a dataset went through."""
    plan = dataset.id.get_create_plist()
    return {plan.get_filter(number)[0] for number in range(plan.get_nfilters())}


def _complete(dataset: h5py.Dataset, path: Path) -> bool:
    """Return whether all of a dataset is stored, in chunks of the right size. Missing chunks would be read as zeros."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() == dataset.nbytes <= path.stat().st_size
    counts = [(size + chunk - 1) // chunk for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    chunks: list[h5py.h5d.StoreInfo] = []
    # chunk_iter stops if the function returns something, and append returns None.
    dataset.id.chunk_iter(chunks.append)
    with open(path, "rb") as file:
        return len(chunks) == math.prod(counts) and all(_holds(file.fileno(), chunk, chunk_bytes) for chunk in chunks)


def _holds(descriptor: int, chunk: h5py.h5d.StoreInfo, size: int) -> bool:
    """Return whether a chunk holds `size` bytes. HDF5's LZ4 filter allocates what the first 8 bytes of a chunk claim."""
    is_uncompressed = chunk.filter_mask
    if is_uncompressed:
        return chunk.size == size
    claimed = int.from_bytes(os.pread(descriptor, 8, chunk.byte_offset), "big")
    return claimed == size <= chunk.size * _LZ4_RATIO


def _chunks(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Return the shape of chunks of whole rows. A value has `width` bytes.

    If experts are stacked, (out, E, in), a chunk holds rows of one expert."""
    first, *others = shape
    columns = others[-1:]
    row_bytes = width * math.prod(columns)
    rows = max(1, min(first, _CHUNK // row_bytes))
    return (rows, *[1] * len(others[:-1]), *columns)


def _spec(tree: dict) -> list:
    """Return `tree`, dictionaries with "*" for the leaves, and its text in protocol 1 of torch.utils._pytree."""

    def node(value: dict | str) -> dict:
        if value == "*":
            return {"type": None, "context": None, "children_spec": []}
        children = [node(child) for child in value.values()]
        return {"type": "builtins.dict", "context": json.dumps(list(value)), "children_spec": children}

    return [tree, json.dumps([1, node(tree)])]
