"""Write a checkpoint again: as one file in another dtype, or with other values in some of its tensors, and its manifest."""

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from sparseft.checkpoints.checkpoint import (
    BITS,
    BLOCK,
    DTYPES,
    MANIFEST_VERSION,
    Checkpoint,
    Tensor,
    read_header,
    safetensors_header,
    small_files,
)
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.records.manifests import CheckpointManifest, FileEntry
from sparseft.records.record_file import write as write_record_file
from sparseft.storage.hashes import sha256, write_hashed

# Takes the name of a tensor and its new bytes.
WriteTensor = Callable[[str, bytes], None]


def safetensors_stream(checkpoint: Checkpoint, names: Iterable[str], dtype: str | None = None) -> Iterator[np.ndarray]:
    """Yield the file's bytes in order, uint8: the header, then the tensors `names`, one block of rows at a time.

    Every tensor is rounded to `dtype` (BF16, F16, F32). Without `dtype` each keeps its own."""
    tensors = [checkpoint.tensors[name] for name in names]
    layout = [tensor.changed(dtype or tensor.dtype, tensor.shape) for tensor in tensors]
    yield np.frombuffer(safetensors_header(layout), np.uint8)
    for tensor in tensors:
        for bits in checkpoint.read_blocks(tensor.name, BLOCK):
            yield converted(bits, tensor.dtype, dtype or tensor.dtype)


def converted(bits: np.ndarray, dtype: str, target: str) -> np.ndarray:
    """Return the bytes, uint8, of values in `dtype` after rounding to `target`. The values are given as bits (n,)."""
    if dtype == target:
        return bits.view(np.uint8)
    # numpy has no bfloat16. Imported here, because planning must not import torch.
    import torch

    kinds = {code: getattr(torch, name) for name, code in DTYPES.items()}
    return torch.from_numpy(bits).view(kinds[dtype]).to(kinds[target]).view(torch.uint8).numpy()


def read_exactly(checkpoint: Checkpoint, name: str, dtype: str) -> np.ndarray | None:
    """Return a tensor's bits in `dtype` and its shape; None if a value is not the same in `dtype`."""
    tensor = checkpoint.tensors[name]
    bits = checkpoint.read(name)
    words = converted(bits.reshape(-1), tensor.dtype, dtype).view(BITS[dtype])
    is_exact = np.array_equal(converted(words, dtype, tensor.dtype), bits.reshape(-1).view(np.uint8))
    return words.reshape(tensor.shape) if is_exact else None


def rewrite(
    checkpoint: Checkpoint, names: Set[str], content: Callable[[Tensor], Iterable[bytes]], folder: Path
) -> dict[str, str]:
    """Copy a checkpoint to `folder` with other values in the tensors `names`, and return the hashes of the copy.

    The copy has the files, the headers and the byte layout of the checkpoint. `content` gives the new bytes of a tensor."""
    checkpoint.copy_rest(folder)

    def blocks(file: Path) -> Iterator[bytes]:
        header, tensors = read_header(file)
        yield header
        with open(file, "rb") as source:
            for tensor in tensors:
                if tensor.name in names:
                    yield from content(tensor)
                    continue
                source.seek(tensor.start)
                for start in range(0, tensor.nbytes, BLOCK):
                    yield source.read(min(BLOCK, tensor.nbytes - start))

    hashes = {file.name: write_hashed(folder / file.name, blocks(file)) for file in checkpoint.files}
    return hashes | {file.name: sha256(file) for file in small_files(folder)}


@contextmanager
def rewritten(checkpoint: Checkpoint, names: Set[str], folder: Path) -> Iterator[WriteTensor]:
    """Copy a checkpoint to `folder` without the tensors `names`, and yield the function that writes these.

    The copy has the files, the headers and the byte layout of the checkpoint. The block must write each of `names` once, in
    any order. Raises ValueError if it leaves one out."""
    checkpoint.copy_rest(folder)
    missing = set(names)
    with ExitStack() as stack:
        targets = {file: stack.enter_context(open(folder / file.name, "wb")) for file in checkpoint.files}
        for file, target in targets.items():
            header, tensors = read_header(file)
            target.write(header)
            with open(file, "rb") as source:
                for tensor in tensors:
                    if tensor.name not in names:
                        source.seek(tensor.start)
                        target.seek(tensor.start)
                        target.write(source.read(tensor.nbytes))

        def write(name: str, content: bytes) -> None:
            tensor = checkpoint.tensors[name]
            targets[tensor.file].seek(tensor.start)
            targets[tensor.file].write(content)
            missing.remove(name)

        yield write
    if missing:
        raise ValueError(f"{len(missing)} tensors were not written (first: {min(missing)})")


def write_manifest(folder: Path, schema: type[CheckpointManifest], **origin: object) -> dict:
    """Write manifest.json beside the files of a checkpoint folder, and return its content.

    `origin` has the fields of the schema that say where the checkpoint comes from. Every weight must be finite."""
    checkpoint = Checkpoint(folder)
    shapes = prunable_shapes(checkpoint)
    hashes = checkpoint.hashes()
    sizes = {name: (folder / name).stat().st_size for name in hashes}
    manifest = schema(
        format_version=MANIFEST_VERSION,
        **origin,
        architecture=checkpoint.architecture.class_name,
        prunable_layers=len(shapes),
        prunable_weights=sum(rows * cols for rows, cols in shapes.values()),
        digest=checkpoint.digest_of(hashes),
        files={name: FileEntry(sha256=hashes[name], bytes=sizes[name]) for name in sorted(hashes)},
    )
    write_record_file(folder / "manifest.json", manifest)
    return manifest.model_dump()
