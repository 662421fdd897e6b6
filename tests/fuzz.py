"""Coverage-guided fuzzing of what reads files that others made: each may refuse, in one way, and do nothing else.

    python tests/fuzz.py mask|safetensors|mdl|log FOLDER [libFuzzer's options, such as -max_total_time=600]

FOLDER holds the corpus, which begins with sound files. A finding is any other exception, a crash, more than 10 s or
2 GB for one file: libFuzzer keeps the file beside the corpus and ends. Needs `atheris`; `make fuzz` runs all four.
"""

import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris
import sparseft.masks.mask_kernels  # noqa: F401  first, as it is: numba compiles no instrumented code

with atheris.instrument_imports(include=["sparseft", "pickletools", "zipfile"]):
    from sparseft.backends.appliance import Failure, classify
    from sparseft.checkpoints.checkpoint import BITS, Checkpoint
    from sparseft.checkpoints.mdl import MdlFile, mdl_writer
    from sparseft.errors import InputError
    from sparseft.masks.mask_file import Mask, pack, read_mask

import numpy as np

from masks import write_mask

SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
HEADER = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}'
LOG = """| Train Device=CSX, Step=50, Loss=9.44598, Rate=44.84 samples/sec, GlobalRate=44.70 samples/sec
grpc: UNAVAILABLE: Socket closed, Connection reset by peer, http2 header with status: 502
OSError: [Errno 122] Disk quota exceeded
error: trainer: union_tag_invalid; see what it printed
"""


def small_mask() -> Mask:
    bits = {"a": pack(np.arange(51).reshape(3, 17) % 3 == 0), "bb": pack(np.ones((2, 8), bool))}
    return Mask(
        {"method": "random", "seed": -3, "pattern": "random", "sparsity": 0.5}, bits, {"a": (3, 17), "bb": (2, 8)}
    )


def zipped(program: bytes) -> bytes:
    """A .pt file with this pickle and sound checksums: mutations of the pickle itself get past them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(range(9)))
        archive.writestr("archive/data/1", b"\xff\xff")
    return buffer.getvalue()


def seeds(target: str) -> list[bytes]:
    """Sound inputs of a target."""
    path = SCRATCH / "seed"
    if target == "mask":
        write_mask(path.with_suffix(".pt"), small_mask())
        write_mask(path.with_suffix(".safetensors"), small_mask())
        whole = path.with_suffix(".pt").read_bytes()
        program = zipfile.ZipFile(io.BytesIO(whole)).read("archive/data.pkl")
        return [b"P" + program, b"Z" + whole, b"S" + path.with_suffix(".safetensors").read_bytes()]
    if target == "safetensors":
        return [HEADER + b"\0" + bytes(8)]
    if target == "mdl":
        with mdl_writer(path.with_suffix(".mdl"), "model") as writer:
            writer.create("w", "BF16", (6, 5))
            writer.write("w", (), np.arange(30, dtype=np.uint16).reshape(6, 5))
            writer.link("tied", "w")
        return [path.with_suffix(".mdl").read_bytes()]
    return [LOG.encode()]


def fuzz_mask(data: bytes) -> None:
    kind, content = data[:1], data[1:]
    path = SCRATCH / ("m.safetensors" if kind == b"S" else "m.pt")
    path.write_bytes(zipped(content) if kind == b"P" else content)
    mask = read_mask(path)
    for layer, (rows, cols) in mask.shape.items():
        assert mask.kept(layer).shape == (rows, cols)


def fuzz_safetensors(data: bytes) -> None:
    header, _, content = data.partition(b"\0")
    path = SCRATCH / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)
    checkpoint = Checkpoint(SCRATCH)
    end = 8 + len(header)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.start == end, "a hole or an overlap"
        end += tensor.nbytes
        if tensor.dtype in BITS:
            assert checkpoint.read(name).nbytes == tensor.nbytes
    assert end == path.stat().st_size


def fuzz_mdl(data: bytes) -> None:
    path = SCRATCH / "x.mdl"
    path.write_bytes(data)
    file = MdlFile(path)
    try:
        for tensor in file.tensors.values():
            assert file.read(tensor).shape == tensor.shape
        file.check_loadable()
        file.check_plain("model")
    finally:
        if "file" in vars(file):
            file.file.close()


def fuzz_log(data: bytes) -> None:
    assert classify(data.decode(errors="replace")) in Failure


def one(target: str):
    """The target as libFuzzer calls it: InputError is the one way to refuse."""
    run = globals()[f"fuzz_{target}"]

    def test(data: bytes) -> None:
        try:
            run(data)
        except InputError as error:
            assert len(error.args) == 2

    return test


def main() -> None:
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed{number}").write_bytes(content)
    limits = ["-timeout=10", "-rss_limit_mb=2000", f"-artifact_prefix={corpus.parent}/{target}-", "-max_len=32768"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *sys.argv[3:]], one(target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
