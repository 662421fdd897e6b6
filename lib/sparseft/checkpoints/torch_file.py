"""Files of `torch.save`, read without torch and without running what is in them.

Such a file is a zip: `data.pkl`, and one stored member for every tensor's storage. The pickle is read with pickletools,
which names its operations and executes none; the few that plain data and uint8 tensors need are carried out here, any
other is refused. Layout: github.com/pytorch/pytorch, docs/source/notes/serialization.rst.
"""

import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

_REBUILD = "torch._utils _rebuild_tensor_v2"
_GLOBALS = (_REBUILD, "torch ByteStorage", "collections OrderedDict")
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "NONE": type(None)}
_VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")


def read_torch_file(path: Path) -> dict:
    """The content: dicts, lists, tuples, strings, numbers, and uint8 arrays that stay memory-mapped.

    Raises ValueError, or zipfile.BadZipFile, where the file holds anything else or is damaged."""
    data = np.memmap(path, np.uint8, "r")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except (NotImplementedError, OSError) as error:  # what zipfile makes of some damages
        raise ValueError(f"a damaged zip: {error}") from None

    def member(name: str) -> np.ndarray:
        info = members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        header = info.header_offset + 30  # a zip's local header is 30 bytes, then the name and an extra field
        start = header + int(data[header - 4 : header].view("<u2").sum())
        content = data[start : start + info.file_size]
        if zlib.crc32(content) != info.CRC:
            raise ValueError(f"{name} is damaged: another checksum")
        return content

    program = member("data.pkl").tobytes()
    return _Machine(lambda key: member(f"data/{key}")).run(program)


class _Machine:
    """The pickle machine's stack, marks and memo, for a handful of its operations."""

    def __init__(self, storage: Callable[[str], np.ndarray]) -> None:
        self.storage, self.stack, self.marks, self.memo = storage, [], [], {}

    def run(self, program: bytes) -> dict:
        for opcode, argument, _ in pickletools.genops(program):
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: object) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in ("NEWTRUE", "NEWFALSE"):
            self.stack.append(name == "NEWTRUE")
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL" and argument in _GLOBALS:
            self.stack.append(argument)
        elif name not in ("PROTO", "STOP"):
            self._collect(name)

    def _collect(self, name: str) -> None:
        """The operations that take values off the stack."""
        if name in ("APPENDS", "SETITEMS", "TUPLE"):
            items = self._pop(len(self.stack) - self.marks.pop())
        else:
            items = self._pop({"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "REDUCE": 2}.get(name, 1))
        if name.startswith("TUPLE"):
            self.stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            self.stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BINPERSID":
            self.stack.append(self.storage(items[0][2]))  # ("storage", type, key, device, size)
        elif name == "REDUCE":
            self.stack.append(_tensor(*items[1]) if items[0] == _REBUILD else {})
        else:
            raise ValueError(f"pickle operation {name}")

    def _pop(self, number: int) -> list:
        items = self.stack[len(self.stack) - number :]
        del self.stack[len(self.stack) - number :]
        return items


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: object) -> np.ndarray:
    """A contiguous uint8 tensor of two dimensions, as a view of its storage."""
    if stride != (size[1], 1):
        raise ValueError("a tensor that is not contiguous")
    return storage[offset : offset + size[0] * size[1]].reshape(size)
