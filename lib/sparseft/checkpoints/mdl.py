"""Cerebras checkpoints, `.mdl`, read and written tensor by tensor without cerebras-pytorch.

HDF5, format 0.5. A tensor is the dataset of its dotted key, compressed by LZ4; bfloat16 is stored as int16. The root's
attributes describe the tree: `__spec__`, a JSON text `{key}.__metadata__` a leaf, and `__SUCCESS__`, which is set last: a
file without it is partly written. A link stands for a tied tensor. Any other Python object is a dill pickle, which can
run code and is never opened.
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

import h5py
import hdf5plugin
import numpy as np

from sparseft.checkpoints.checkpoint import BITS
from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_file

VERSION = 0.5
_SUFFIX = ".__metadata__"
# torch's name -> (safetensors' name, numpy's of what is stored, RtFx number)
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
_PLAIN = {"ScalarSerializer", "StringSerializer", "NoneSerializer", "LinkedObject"}  # are their metadata, no dataset
_NODES = {None, "builtins.dict", "builtins.list", "builtins.tuple"}
_LZ4, _LZ4_RATIO = 32004, 256  # a byte of LZ4 stands for 255 bytes at most
_CHUNK = 1 << 20  # bytes, of whole rows
_CACHE = 1 << 25  # bytes of decompressed chunks: blocks of rows need not end where chunks do
_CPU, _WAIT = 60, 1800  # seconds of CPU, and in all, for what a sound file of any size says in a few
_MEND = "copy or write the file again"


@dataclass(frozen=True)
class MdlTensor:
    """A tensor: the key of its dataset, which a link shares; `dtype` as safetensors spells it (BF16, BOOL, I64, ...)."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MdlFile:
    """An `.mdl` file, which stays open while it is used.

    Raises InputError where it is none, truncated, of another format, or partly written."""

    path: Path

    @cached_property
    def file(self) -> h5py.File:
        """The open file."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file", "name an .mdl file")
        if ended := _ended_by(self):
            raise InputError(f"{self.path}: damaged, or made to harm: reading it ends in {ended}", _MEND)
        return self._open()

    def _open(self) -> h5py.File:
        with self._damages():
            file = h5py.File(self.path, "r", locking="best-effort", rdcc_nbytes=_CACHE)
            version, success = file.attrs.get("__version__"), file.attrs.get("__SUCCESS__", False)
        if version != VERSION:
            raise InputError(f"{self.path}: .mdl format {version}, not {VERSION}", "save it with cerebras-pytorch 2.x")
        if not success:
            raise InputError(
                f"{self.path}: partly written: __SUCCESS__ is not set", "take a checkpoint that is complete"
            )
        return file

    @cached_property
    def leaves(self) -> dict[str, dict]:
        """Dotted key -> metadata, of every leaf of the tree."""
        with self._damages():
            texts = {key.removesuffix(_SUFFIX): text for key, text in self.file.attrs.items() if key.endswith(_SUFFIX)}
            return {key: json.loads(text)[key + _SUFFIX] for key, text in texts.items()}

    @cached_property
    def tensors(self) -> dict[str, MdlTensor]:
        """The tensors by dotted key. Raises InputError where one is not what the file says of it, or not all there."""
        found = {key: self._tensor(key) for key in self.leaves}
        return {key: tensor for key, tensor in found.items() if tensor}

    def check_plain(self, branch: str) -> None:
        """Raises InputError, naming the key, where a pickled object is below a key of the tree, such as "model"."""
        pickled = [key for key, meta in self.leaves.items() if key.startswith(f"{branch}.") and "__BYTES__" in meta]
        if pickled:
            raise InputError(
                f"{self.path}: {pickled[0]} is a pickled object, which could run code and is not opened",
                "save the file again without it",
            )

    def check_loadable(self) -> None:
        """Raises InputError, naming the key, unless the whole file is numbers, texts and tensors.

        Those cerebras-pytorch loads without unpickling. It believes a leaf's metadata, and over them its dataset's."""
        with self._damages():
            [_, text] = json.loads(self.file.attrs["__spec__"])
            [_, tree] = json.loads(text)
            odd = [str(node) for node in set(_node_types(tree)) - _NODES]
            odd += [key for key in self.leaves if not self._is_plain_leaf(key)]
            odd += [key for key in self.file if not self._is_plain_dataset(key)]
        if odd:
            raise InputError(f"{self.path}: {odd[0]} is not plain data", "save the file again without it")

    def _is_plain_leaf(self, key: str) -> bool:
        leaf, meta = json.loads(self.file.attrs[key + _SUFFIX]), self.leaves[key]
        tensor, kind = meta.get("__TYPE__") == _TENSOR, meta.get("__TYPE__")
        marks = {name for name in ("__NONE__", "__NUMPY__", "__TORCH__", "__BYTES__", "__H5_TYPE__") if name in meta}
        return (
            leaf == {"__spec__": _spec({key: "*"}), "__objects__": [key], key + _SUFFIX: meta}
            and (tensor or kind in _PLAIN)
            and marks == ({"__NUMPY__", "__TORCH__"} if tensor else {"__NONE__"})
            and ("key" in meta) == (kind == "LinkedObject")
        )

    def _is_plain_dataset(self, key: str) -> bool:
        if type(self.file.get(key, getlink=True)) is not h5py.HardLink or not isinstance(self.file[key], h5py.Dataset):
            return False
        attributes = self.file[key].attrs
        return attributes.get("__TYPE__") == _TENSOR and not {"__BYTES__", "__H5_TYPE__", "key"} & set(attributes)

    def read(self, tensor: MdlTensor, selection: object = ()) -> np.ndarray:
        """What `selection`, a slice or a tuple of them and numbers, takes of a tensor: floats as unsigned words of their bits
        (BF16, F16: 16, F32: 32), other values as they are."""
        with self._damages(tensor.key):
            values = np.asarray(self.file[tensor.key][selection])
        return values.view(BITS[tensor.dtype]) if tensor.dtype in BITS else values

    def _tensor(self, key: str) -> MdlTensor | None:
        """The tensor of a leaf, or of what it links to; None for a number, a text or None."""
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
        """Raises ValueError unless all of a tensor is in this file: nothing is read for it, and no memory taken."""
        parts = tensor.key.split("/")  # of a key with a slash, HDF5 makes groups
        links = [self.file.get("/".join(parts[: depth + 1]), getlink=True) for depth in range(len(parts))]
        if not all(type(link) is h5py.HardLink for link in links):
            raise ValueError("it lies in another file")
        dataset = self.file[tensor.key]
        if dataset.is_virtual or dataset.external or _filters(dataset) - {_LZ4}:
            raise ValueError("it lies in another file, or is not compressed by LZ4")
        packed = self.leaves[tensor.key].get("compressed")  # by the appliance, in a form of its own
        if packed or (dataset.shape, dataset.dtype) != (tensor.shape, np.dtype(stored)):
            raise ValueError("it is not stored as its metadata says")
        if not _complete(dataset, self.path):
            raise ValueError("parts of it are missing")

    @contextmanager
    def _damages(self, key: str = "") -> Iterator[None]:
        """What h5py and json raise on a damaged file becomes bad input."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            place = f"{self.path}: {key}" if key else f"{self.path}"
            raise InputError(f"{place}: truncated, or not an .mdl file ({error})", _MEND) from None


class MdlWriter:
    """Writes the tensors below one key of the tree, in any order and in parts; `finish` makes the file complete."""

    def __init__(self, file: h5py.File, branch: str, target: "Target") -> None:
        self.file, self.branch, self.target = file, branch, target
        self.leaves: dict[str, dict] = {}

    def create(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Make room for a tensor; `dtype` as safetensors spells it."""
        stored, torch, rtfx = _STORED[dtype]
        meta = {"__TORCH__": True, "shapes": [shape], "dtypes": [torch], "rtfx_dtypes": [rtfx],
                "__TYPE__": "TorchTensorSerializer", "__NUMPY__": True, "compressed": False}  # fmt: skip
        whole = min(shape, default=0) == 0  # nothing to compress, or to divide into chunks
        options = {} if whole else {"chunks": _chunks(shape, np.dtype(stored).itemsize), **hdf5plugin.LZ4()}
        dataset = self.file.create_dataset(f"{self.branch}.{key}", shape, stored, **options)
        dataset.attrs.update(meta)
        self.leaves[key] = meta

    def write(self, key: str, selection: object, values: np.ndarray) -> None:
        """Write a part of a tensor: `values` as `MdlFile.read` gives them."""
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
        """Write the tree, then the mark that all is written."""
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
    """Open `path` for the tensors below `branch`, such as "model"; the file appears whole, or not at all."""
    with atomic_file(path) as temporary, Target(temporary, "w+b") as target:
        try:
            with h5py.File(target, "w", rdcc_nbytes=_CACHE) as file:
                writer = MdlWriter(file, branch, target)
                yield writer
                writer.finish()
        finally:
            target.check()


class Target(io.FileIO):
    """The file that HDF5 writes to. A full disk makes HDF5 crash when it closes: it is not told, and `check` says it."""

    error: OSError | None = None

    def write(self, content: memoryview) -> int:
        rest = memoryview(content).cast("B")
        try:
            while rest and not self.error:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(content)

    def check(self) -> None:
        """Raises the OSError of the first write that failed."""
        if self.error:
            raise self.error


def _ended_by(file: MdlFile) -> str | None:
    """The signal that ends a process which reads all that a file says of its tensors; None where it gets through.

    HDF5 is C: of a damaged file it can loop without end, or crash. A child with limits meets that first."""
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_WAIT)
            resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU + 1))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            trial = MdlFile(file.path)
            vars(trial)["file"] = trial._open()
            _ = trial.tensors
        except BaseException:  # bad input, which the parent meets itself
            pass
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None


def _node_types(node: dict) -> Iterator[str | None]:
    """The types that a tree's text names, to be made by who reads it."""
    yield node["type"]
    for child in node["children_spec"]:
        yield from _node_types(child)


def _filters(dataset: h5py.Dataset) -> set[int]:
    """The numbers of the filters that a dataset went through."""
    plan = dataset.id.get_create_plist()
    return {plan.get_filter(number)[0] for number in range(plan.get_nfilters())}


def _complete(dataset: h5py.Dataset, path: Path) -> bool:
    """Whether all of a dataset is stored, in chunks of the size that they must have: what is not reads as zeros."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() == dataset.nbytes <= path.stat().st_size
    expected = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    whole, found = math.prod(dataset.chunks) * dataset.dtype.itemsize, []
    dataset.id.chunk_iter(lambda info: found.append(info) or None)
    with open(path, "rb") as file:
        return len(found) == expected and all(_holds(file.fileno(), info, whole) for info in found)


def _holds(descriptor: int, info: h5py.h5d.StoreInfo, whole: int) -> bool:
    """Whether a chunk holds `whole` bytes: LZ4's filter takes the memory that a chunk's first 8 bytes ask for."""
    if info.filter_mask:  # stored as it is
        return info.size == whole
    asked = int.from_bytes(os.pread(descriptor, 8, info.byte_offset), "big")
    return asked == whole <= info.size * _LZ4_RATIO


def _chunks(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Chunks of whole rows; of stacked experts, (out, E, in), rows of one."""
    row = width * shape[-1] if len(shape) > 1 else width
    rows = max(1, min(shape[0], _CHUNK // row))
    return (rows, *(1 for _ in shape[1:-1]), *shape[1:][-1:])


def _spec(tree: dict) -> list:
    """A tree of dictionaries with "*" for its leaves, and torch.utils._pytree's text for it, protocol 1."""

    def node(value: dict | str) -> dict:
        if value == "*":
            return {"type": None, "context": None, "children_spec": []}
        children = [node(child) for child in value.values()]
        return {"type": "builtins.dict", "context": json.dumps(list(value)), "children_spec": children}

    return [tree, json.dumps([1, node(tree)])]
