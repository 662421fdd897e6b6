"""Read and write Cerebras checkpoints, `.mdl`, tensor by tensor and without cerebras-pytorch.

The format is HDF5, version 0.5. A tensor is the dataset of its dotted key, compressed by LZ4. bfloat16 is stored as
int16. The root's attributes describe the tree: `__spec__`, and a JSON text `{key}.__metadata__` per leaf. `__SUCCESS__`
is set last, so a file without it is only partly written. A link stands for a tied tensor. Any other Python object is a
dill pickle, which can run code and is never opened. Source: cerebras/pytorch/storage/save.py and load.py of
cerebras-pytorch 2.6.0 and 2.10.0, the same in both."""

import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from sparseft.common.errors import InputError
from sparseft.storage.atomic import atomic_file
from sparseft.storage.bits import BITS

VERSION = 0.5
# The key of the tree that holds the weights.
BRANCH = "model"
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
# The types of leaves without a dataset -> the key of their metadata that holds the value. None has no such key.
_PLAIN = {"ScalarSerializer": "scalar_value", "StringSerializer": "string_value", "NoneSerializer": ""}
_CONTAINERS = {"builtins.dict": dict, "builtins.list": list, "builtins.tuple": tuple}
# The size of a chunk in bytes, in whole rows.
_CHUNK = 1 << 20
# The bytes of decompressed chunks that HDF5 keeps, because blocks of rows need not end where chunks end.
_CACHE = 1 << 25
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
        with self._damages():
            file = h5py.File(self.path, "r", locking="best-effort", rdcc_nbytes=_CACHE)
            version = file.attrs.get("__version__")
            if version != VERSION or not file.attrs.get("__SUCCESS__"):
                raise ValueError(f"its format {version} is not {VERSION}, or __SUCCESS__ is not set")
        return file

    @cached_property
    def leaves(self) -> dict[str, dict]:
        """Return the metadata of every leaf of the tree, by dotted key."""
        with self._damages():
            return {
                name.removesuffix(_SUFFIX): json.loads(text)[name]
                for name, text in self.file.attrs.items()
                if name.endswith(_SUFFIX)
            }

    @cached_property
    def tensors(self) -> dict[str, MdlTensor]:
        """Return the tensors by dotted key. Raises InputError if one is not as its metadata says, or is incomplete."""
        return {key: tensor for key in self.leaves if (tensor := self._tensor(key))}

    def content(self) -> dict:
        """Return the whole tree: nested dictionaries, lists and tuples of numbers, texts and a `MdlTensor` per tensor.

        Raises InputError, naming the key, if the file holds anything else, such as a pickled object."""
        with self._damages():
            [_, text] = json.loads(self.file.attrs["__spec__"])
            [_, root] = json.loads(text)
            return self._content(root, "")

    def _content(self, node: dict, key: str) -> Any:
        """Return what is below a dotted key. `node` describes it."""
        meta = self.leaves.get(key, {})
        if meta.get("__LINKED__"):
            return self._content(node, meta["key"])
        if meta.get("__TYPE__") == _TENSOR:
            return self.tensors[key]
        if meta.get("__TYPE__") in _PLAIN:
            return meta.get(_PLAIN[meta["__TYPE__"]])
        kind = node["type"]
        if kind not in _CONTAINERS:
            raise InputError(f"{self.path}: {key} is not plain data", "save the file again without it")
        children = node["children_spec"]
        names = json.loads(node["context"]) if kind == "builtins.dict" else range(len(children))
        prefix = f"{key}." if key else ""
        content = {name: self._content(child, f"{prefix}{name}") for name, child in zip(names, children, strict=True)}
        return content if kind == "builtins.dict" else _CONTAINERS[kind](content.values())

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
                return self._tensor(meta["key"])
            if not meta.get("__TORCH__"):
                return None
            dtype, stored, _ = _DTYPES[meta["dtypes"][0]]
            tensor = MdlTensor(key, dtype, tuple(meta["shapes"][0]))
            dataset = self.file[key]
            # A hostile file could show the content of another file as weights.
            is_elsewhere = dataset.file.filename != self.file.filename or dataset.is_virtual or dataset.external
            # The appliance may have compressed it, in its own format.
            is_other = meta.get("compressed") or (dataset.shape, dataset.dtype) != (tensor.shape, np.dtype(stored))
            if is_elsewhere or is_other or not _is_whole(dataset):
                raise ValueError("it is not stored whole in this file, as its metadata says")
        return tensor

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


@dataclass
class MdlWriter:
    """Write the tensors below BRANCH, in any order and in parts. `mdl_writer` makes the file complete."""

    file: h5py.File
    target: "Target"
    leaves: dict[str, dict] = field(default_factory=dict)

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
        options = {}
        # A tensor without values, or a single number, cannot be compressed or divided into chunks.
        if min(shape, default=0) > 0:
            first, *others = shape
            columns = others[-1:]
            rows = max(1, min(first, _CHUNK // (np.dtype(stored).itemsize * math.prod(columns))))
            # Whole rows. If experts are stacked, (out, E, in), those of one expert.
            options = {"chunks": (rows, *[1] * len(others[:-1]), *columns), **hdf5plugin.LZ4()}
        dataset = self.file.create_dataset(f"{BRANCH}.{key}", shape, stored, **options)
        dataset.attrs.update(meta)
        self.leaves[key] = meta

    def write(self, key: str, selection: object, values: np.ndarray) -> None:
        """Write a part of a tensor. `values` are as `MdlFile.read` returns them."""
        dataset = self.file[f"{BRANCH}.{key}"]
        dataset[selection] = values.view(dataset.dtype)
        self.target.check()

    def link(self, key: str, other: str) -> None:
        """Tie a tensor to another."""
        self.leaves[key] = {
            "key": f"{BRANCH}.{other}",
            "__LINKED__": True,
            "__TYPE__": "LinkedObject",
            "__NONE__": True,
        }


@contextmanager
def mdl_writer(path: Path) -> Iterator[MdlWriter]:
    """Yield a writer of the tensors below BRANCH. The file appears complete, or not at all."""
    with hdf5_file(path) as (file, target):
        writer = MdlWriter(file, target)
        yield writer
        file.attrs["__spec__"] = json.dumps(_spec({BRANCH: dict.fromkeys(writer.leaves, "*")}))
        file.attrs["__version__"] = VERSION
        for key, meta in writer.leaves.items():
            name = f"{BRANCH}.{key}"
            leaf = {"__spec__": _spec({name: "*"}), "__objects__": [name], name + _SUFFIX: meta}
            file.attrs[name + _SUFFIX] = json.dumps(leaf)
        file.attrs["__SUCCESS__"] = True


@contextmanager
def hdf5_file(path: Path) -> Iterator[tuple[h5py.File, "Target"]]:
    """Yield a new HDF5 file, which appears complete or not at all, and its target, whose `check` notices a full disk
    early."""
    with atomic_file(path) as temporary, Target(temporary, "w+b") as target:
        try:
            with h5py.File(target, "w", rdcc_nbytes=_CACHE) as file:
                yield file, target
        finally:
            target.check()


class Target(io.FileIO):
    """Be the file that HDF5 writes to. It hides a full disk, because HDF5 would crash when it closes the file.

    `check` raises the hidden error."""

    error: OSError | None = None

    def write(self, content: Any, /) -> int:
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


def _is_whole(dataset: h5py.Dataset) -> bool:
    """Return whether all parts of a dataset are stored. HDF5 would read missing ones as zeros."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() == dataset.nbytes
    return dataset.id.get_num_chunks() == np.ceil(np.divide(dataset.shape, dataset.chunks)).prod()


def _spec(tree: dict) -> list:
    """Return `tree`, dictionaries with "*" for the leaves, and its text in protocol 1 of torch's own trees."""
    # A reader needs no torch.
    from torch.utils._pytree import tree_structure, treespec_dumps

    return [tree, treespec_dumps(tree_structure(tree), 1)]
