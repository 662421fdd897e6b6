"""Files of `torch.save`, read and written without torch and without running what is in them.

Such a file is a zip: `data.pkl`, and one stored member for every tensor's storage. The pickle is read with pickletools,
which names its operations and executes none; the few that plain data and uint8 tensors need are carried out here, any
other is refused. Written is the same handful, and the tensors first: their places are known before their bytes.
Layout: github.com/pytorch/pytorch, docs/source/notes/serialization.rst; zip with 64-bit sizes: PKWARE APPNOTE 4.3, 4.5.3.
"""

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparseft.storage.files import check_regular, write_at

_REBUILD = "torch._utils _rebuild_tensor_v2"
_GLOBALS = (_REBUILD, "torch ByteStorage", "collections OrderedDict")
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "NONE": type(None)}
_ALIGNMENT = 64  # torch's own, so that a mapped tensor is aligned
_VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")


def read_torch_file(path: Path) -> dict:
    """Return the content: dicts, lists, tuples, strings, numbers, and uint8 arrays that stay memory-mapped.

    Raises ValueError, or zipfile.BadZipFile, if the file holds anything else or is damaged."""
    check_regular(path)
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


@dataclass(frozen=True)
class Storage:
    """A uint8 tensor of two dimensions in the content of a file: its shape, and its place among the file's storages."""

    key: int
    shape: tuple[int, int]


class TorchFileWriter:
    """Writes to a binary file, at any place and in any order of storages; the bytes of one storage come in order.

    `sizes`: bytes of storage 0, 1, ...; `finish` adds the content that refers to them."""

    def __init__(self, descriptor: int, sizes: list[int]) -> None:
        self.descriptor = descriptor
        self.members: list[_Member] = []
        for key, size in enumerate(sizes):
            self._reserve(f"data/{key}", size)

    def write(self, key: int, offset: int, content: memoryview) -> None:
        """Write `content` at `offset` of storage `key`; safe from several threads, a storage each."""
        self.members[key].write(self.descriptor, offset, content)

    def finish(self, content: dict) -> None:
        """Write the content, in which every `Storage` stands for its tensor, and the zip's directory."""
        for name, text in (("data.pkl", _program(content)), ("version", b"3\n"), ("byteorder", b"little")):
            self._reserve(name, len(text))
            self.members[-1].write(self.descriptor, 0, text)
        for member in self.members:
            write_at(self.descriptor, member.local_header(), member.header)
        directory = b"".join(member.directory_entry() for member in self.members)
        end = self.members[-1].start + self.members[-1].size
        write_at(self.descriptor, directory + _end(len(self.members), len(directory), end), end)

    def _reserve(self, name: str, size: int) -> None:
        header = self.members[-1].start + self.members[-1].size if self.members else 0
        self.members.append(_Member(f"archive/{name}".encode(), header, size))


class _Member:
    """A stored member of a zip: its header at `header`, its bytes at `start`, the checksum of what was written."""

    def __init__(self, name: bytes, header: int, size: int) -> None:
        self.name, self.header, self.size, self.crc = name, header, size, 0
        plain = header + 30 + len(name) + 20 + 4  # with both extra fields: the sizes, and the padding
        self.padding = -plain % _ALIGNMENT
        self.start = plain + self.padding

    def write(self, descriptor: int, offset: int, content: bytes | memoryview) -> None:
        self.crc = zlib.crc32(content, self.crc)
        write_at(descriptor, content, self.start + offset)

    def local_header(self) -> bytes:
        sizes = struct.pack("<HHQQ", 1, 16, self.size, self.size)
        padding = struct.pack("<HH", 0x4246, self.padding) + bytes(self.padding)  # torch's tag
        fields = (b"PK\x03\x04", 45, 0, 0, 0, 0x21, self.crc, 2**32 - 1, 2**32 - 1, len(self.name), 24 + self.padding)
        return struct.pack("<4sHHHHHIIIHH", *fields) + self.name + sizes + padding

    def directory_entry(self) -> bytes:
        extra = struct.pack("<HHQQQ", 1, 24, self.size, self.size, self.header)
        fields = (b"PK\x01\x02", 45, 45, 0, 0, 0, 0x21, self.crc, 2**32 - 1, 2**32 - 1, len(self.name), len(extra))
        return struct.pack("<4sHHHHHHIIIHHHHHII", *fields, 0, 0, 0, 0, 2**32 - 1) + self.name + extra


def _end(members: int, size: int, start: int) -> bytes:
    """The end of a zip whose directory of `size` bytes begins at `start`."""
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, members, members, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1)
    few = min(members, 2**16 - 1)
    return record + locator + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, 2**32 - 1, 2**32 - 1, 0)


def _program(content: dict) -> bytes:
    """The pickle, protocol 2, of plain data and `Storage`s."""
    return b"\x80\x02" + _emit(content) + b"."


def _emit(value: object) -> bytes:
    """The pickle operations that push a value."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return b"}(" + b"".join(_emit(key) + _emit(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_emit, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_emit, value)) + b"t"
    if isinstance(value, Storage):
        return _emit_tensor(value)
    raise TypeError(f"{type(value).__name__} has no place in a mask file")


def _emit_tensor(storage: Storage) -> bytes:
    rows, cols = storage.shape
    kind, rebuild, dictionary = (f"c{name.replace(' ', chr(10))}\n".encode() for name in (_GLOBALS[1], *_GLOBALS[::2]))
    place = b"(" + _emit("storage") + kind + _emit(str(storage.key)) + _emit("cpu") + _emit(rows * cols) + b"tQ"
    arguments = (0, (rows, cols), (cols, 1), False)  # offset, size, stride, requires_grad
    return rebuild + b"(" + place + b"".join(map(_emit, arguments)) + dictionary + b")RtR"
