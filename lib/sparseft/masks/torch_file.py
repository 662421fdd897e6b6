"""Read and write files of `torch.save` without torch, and without running what is in them.

Such a file is a zip: `data.pkl`, and one stored member per tensor's storage. The pickle is read with pickletools, which
names its operations and executes none. The few operations that plain data and uint8 tensors need are carried out here.
Any other operation is refused. The writer uses the same few operations. It writes the tensors first, because their
places are known before their bytes.

Layout: github.com/pytorch/pytorch, docs/source/notes/serialization.rst.
Zip with 64-bit sizes: PKWARE APPNOTE 4.3 and 4.5.3.
"""

import os
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_REBUILD = "torch._utils _rebuild_tensor_v2"
_BYTE_STORAGE = "torch ByteStorage"
_ORDERED_DICT = "collections OrderedDict"
_GLOBALS = (_REBUILD, _BYTE_STORAGE, _ORDERED_DICT)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "NONE": type(None)}
_VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
# How many values an operation takes off the stack, if it does not take all above a mark and not only one.
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "REDUCE": 2}
# As torch aligns, so that a mapped tensor is aligned.
_ALIGNMENT = 64
# A zip's local header has 30 bytes, then the member's name and an extra field.
_LOCAL_HEADER = 30
_UNUSED_32_BITS = 2**32 - 1


def read_torch_file(path: Path) -> dict:
    """Return the content: dicts, lists, tuples, strings, numbers, and uint8 arrays that stay memory-mapped.

    Raises ValueError or zipfile.BadZipFile if the file holds anything else or is damaged."""
    data = np.memmap(path, np.uint8, "r")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    # zipfile raises them for some damages.
    except (NotImplementedError, OSError) as error:
        raise ValueError(f"a damaged zip: {error}") from None
    program = _member(data, members, "data.pkl").tobytes()
    return _Machine(lambda key: _member(data, members, f"data/{key}")).run(program)


def _member(data: np.ndarray, members: dict[str, zipfile.ZipInfo], name: str) -> np.ndarray:
    """Return the bytes of a member, a view of the file's. Raises ValueError if it is compressed or damaged."""
    info = members[name]
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    header_end = info.header_offset + _LOCAL_HEADER
    # The header's last four bytes are the lengths of the name and of the extra field.
    start = header_end + int(data[header_end - 4 : header_end].view("<u2").sum())
    content = data[start : start + info.file_size]
    if zlib.crc32(content) != info.CRC:
        raise ValueError(f"{name} is damaged: its checksum differs")
    return content


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` at a place of an open file. A nearly full disk writes a part before it refuses."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


class _Machine:
    """The stack, the marks and the memo of a pickle machine that knows only a few operations."""

    def __init__(self, storage: Callable[[str], np.ndarray]) -> None:
        """`storage` returns the bytes of a tensor's storage by its key."""
        self.storage = storage
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, program: bytes) -> dict:
        """Return the value that a pickle builds. Raises ValueError for an operation that is not known."""
        for opcode, argument, _ in pickletools.genops(program):
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: object) -> None:
        """Carry out one operation."""
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
        """Carry out an operation that takes values off the stack."""
        if name in ("APPENDS", "SETITEMS", "TUPLE"):
            items = self._pop(len(self.stack) - self.marks.pop())
        else:
            items = self._pop(_TAKEN.get(name, 1))
        if name.startswith("TUPLE"):
            self.stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            self.stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BINPERSID":
            # ("storage", type, key, device, size)
            self.stack.append(self.storage(items[0][2]))
        elif name == "REDUCE":
            function, arguments = items
            self.stack.append(_tensor(*arguments) if function == _REBUILD else {})
        else:
            raise ValueError(f"pickle operation {name}")

    def _pop(self, number: int) -> list:
        """Take the last `number` values off the stack."""
        start = len(self.stack) - number
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: object) -> np.ndarray:
    """Return a contiguous uint8 tensor of two dimensions, a view of its storage."""
    if stride != (size[1], 1):
        raise ValueError("a tensor that is not contiguous")
    return storage[offset : offset + size[0] * size[1]].reshape(size)


@dataclass(frozen=True)
class StoredTensor:
    """Stand for a uint8 tensor in the content of a file. `key` is the number of its storage."""

    key: int
    shape: tuple[int, int]


class TorchFileWriter:
    """Write a file of `torch.save` to a descriptor: the storages in any order, and the bytes of one storage in order."""

    def __init__(self, descriptor: int, sizes: list[int]) -> None:
        """`sizes`: the bytes of storage 0, 1, ..."""
        self.descriptor = descriptor
        self.members: list[_Member] = []
        for key, size in enumerate(sizes):
            self._reserve(f"data/{key}", size)

    def write(self, key: int, offset: int, content: memoryview) -> None:
        """Write `content` at `offset` of storage `key`. Several threads may write, each one to its own storage."""
        self.members[key].write(self.descriptor, offset, content)

    def finish(self, content: dict) -> None:
        """Write the content, in which every `StoredTensor` stands for its tensor, and the zip's directory."""
        for name, text in (("data.pkl", _program(content)), ("version", b"3\n"), ("byteorder", b"little")):
            member = self._reserve(name, len(text))
            member.write(self.descriptor, 0, text)
        for member in self.members:
            write_at(self.descriptor, member.local_header(), member.header)
        directory = b"".join(member.directory_entry() for member in self.members)
        end = self.members[-1].end
        write_at(self.descriptor, directory + _end(len(self.members), len(directory), end), end)

    def _reserve(self, name: str, size: int) -> "_Member":
        """Return a new member of `size` bytes behind the last one."""
        header = self.members[-1].end if self.members else 0
        self.members.append(_Member(f"archive/{name}".encode(), header, size))
        return self.members[-1]


class _Member:
    """A stored member of a zip: its header at `header`, its bytes from `start` to `end`, and the checksum of what was written."""

    def __init__(self, name: bytes, header: int, size: int) -> None:
        self.name = name
        self.header = header
        self.size = size
        self.checksum = 0
        # The extra field holds the sizes in 20 bytes, and the padding with 4 bytes before it.
        unaligned = header + _LOCAL_HEADER + len(name) + 20 + 4
        self.padding = -unaligned % _ALIGNMENT
        self.start = unaligned + self.padding
        self.end = self.start + size

    def write(self, descriptor: int, offset: int, content: bytes | memoryview) -> None:
        """Write the next bytes of the member."""
        self.checksum = zlib.crc32(content, self.checksum)
        write_at(descriptor, content, self.start + offset)

    def local_header(self) -> bytes:
        """Return the header that stands before the member's bytes."""
        sizes = struct.pack("<HHQQ", 1, 16, self.size, self.size)
        # 0x4246 is the tag of torch's padding.
        padding = struct.pack("<HH", 0x4246, self.padding) + bytes(self.padding)
        extra = sizes + padding
        signature = (b"PK\x03\x04", 45, 0, 0, 0, 0x21)
        lengths = (len(self.name), len(extra))
        fields = struct.pack("<4sHHHHHIIIHH", *signature, self.checksum, _UNUSED_32_BITS, _UNUSED_32_BITS, *lengths)
        return fields + self.name + extra

    def directory_entry(self) -> bytes:
        """Return the member's entry in the directory at the zip's end."""
        extra = struct.pack("<HHQQQ", 1, 24, self.size, self.size, self.header)
        signature = (b"PK\x01\x02", 45, 45, 0, 0, 0, 0x21)
        sizes = (_UNUSED_32_BITS, _UNUSED_32_BITS, len(self.name), len(extra))
        attributes = (0, 0, 0, 0, _UNUSED_32_BITS)
        fields = struct.pack("<4sHHHHHHIIIHHHHHII", *signature, self.checksum, *sizes, *attributes)
        return fields + self.name + extra


def _end(members: int, size: int, start: int) -> bytes:
    """Return the end of a zip whose directory has `size` bytes and begins at `start`."""
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, members, members, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1)
    # The old end has only 16 bits for the number of members.
    few = min(members, 2**16 - 1)
    old_end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, _UNUSED_32_BITS, _UNUSED_32_BITS, 0)
    return record + locator + old_end


def _program(content: dict) -> bytes:
    """Return the pickle, protocol 2, of plain data and `StoredTensor`s."""
    return b"\x80\x02" + _emit(content) + b"."


def _emit(value: object) -> bytes:
    """Return the pickle operations that push a value."""
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
    if isinstance(value, StoredTensor):
        return _emit_tensor(value)
    raise TypeError(f"{type(value).__name__} has no place in a mask file")


def _emit_tensor(tensor: StoredTensor) -> bytes:
    """Return the operations that push a tensor: torch's function of its storage, its form, and no hooks."""
    rows, cols = tensor.shape
    storage = b"(" + _emit("storage") + _emit_global(_BYTE_STORAGE)
    storage += _emit(str(tensor.key)) + _emit("cpu") + _emit(rows * cols) + b"tQ"
    # Offset, size, stride, requires_grad.
    form = b"".join(map(_emit, (0, (rows, cols), (cols, 1), False)))
    return _emit_global(_REBUILD) + b"(" + storage + form + _emit_global(_ORDERED_DICT) + b")RtR"


def _emit_global(name: str) -> bytes:
    """Return the operation that pushes a global, "module name"."""
    return f"c{name.replace(' ', chr(10))}\n".encode()
