"""Write a checkpoint again, and its manifest: as one file in another dtype, with other values in some tensors, or
smaller."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparseft.models.checkpoints.checkpoint import (
    BLOCK,
    DTYPES,
    INDEX,
    MANIFEST_VERSION,
    README,
    Checkpoint,
    Tensor,
    read_header,
    safetensors_header,
)
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.checkpoints.manifests import CheckpointManifest, FileEntry
from sparseft.storage.atomic import write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json
from sparseft.storage.record_file import write as write_record_file

# Takes the name of a tensor and its new bytes, in parts.
WriteTensor = Callable[[str, Iterable[bytes]], None]


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


@contextmanager
def rewritten(checkpoint: Checkpoint, names: Set[str], folder: Path) -> Iterator[WriteTensor]:
    """Copy a checkpoint to `folder` without the tensors `names`, and yield the function that writes these.

    The copy has the files, the headers and the byte layout of the checkpoint. The block must write each of `names`
    once, in any order. Raises ValueError if it leaves one out."""
    checkpoint.copy_rest(folder)
    missing = set(names)
    with ExitStack() as stack:
        targets = {file: stack.enter_context(open(folder / file.name, "wb")) for file in checkpoint.files}
        for file, target in targets.items():
            header, tensors = read_header(file)
            target.write(header)
            for tensor in tensors:
                if tensor.name not in names:
                    target.seek(tensor.start)
                    target.write(checkpoint.read_bytes(tensor.name))

        def write(name: str, parts: Iterable[bytes]) -> None:
            tensor = checkpoint.tensors[name]
            targets[tensor.file].seek(tensor.start)
            targets[tensor.file].writelines(parts)
            missing.remove(name)

        yield write
    if missing:
        raise ValueError(f"{len(missing)} tensors were not written (first: {min(missing)})")


class Cut(NamedTuple):
    """Say what a smaller model keeps of a tensor: its new name, and the kept rows (axis 0) or columns (axis 1), bool.

    None keeps all of them."""

    name: str
    kept: np.ndarray | None = None
    axis: int = 0

    def resized(self, tensor: Tensor) -> Tensor:
        """Return the tensor with its new name and shape."""
        shape = list(tensor.shape)
        if self.kept is not None:
            shape[self.axis] = int(self.kept.sum())
        return replace(tensor.changed(tensor.dtype, tuple(shape)), name=self.name)


def write_smaller(
    checkpoint: Checkpoint, folder: Path, changes: dict, cut_of: Callable[[Tensor], Cut | None]
) -> Checkpoint:
    """Write a checkpoint with fewer or smaller tensors to `folder`, one tensor in memory at a time, and return it.

    changes: keys of config.json and their new values; ... removes a key
    cut_of: a tensor -> what is kept of it; None if it is left out

    The tensors stay in their files and in their order. A file without tensors is left out."""
    checkpoint.copy_rest(folder)
    # The name of each tensor that is kept -> the smaller tensor.
    kept: dict[str, Tensor] = {}
    for file in checkpoint.files:
        header, tensors = read_header(file)
        cuts = {tensor.name: cut for tensor in tensors if (cut := cut_of(tensor))}
        if not cuts:
            continue
        smaller = {name: cut.resized(checkpoint.tensors[name]) for name, cut in cuts.items()}
        kept |= smaller
        with open(folder / file.name, "wb") as target:
            target.write(safetensors_header(smaller.values(), json.loads(header[8:]).get("__metadata__")))
            for name, cut in cuts.items():
                if cut.kept is None:
                    target.write(checkpoint.read_bytes(name))
                else:
                    target.write(np.compress(cut.kept, checkpoint.read(name), cut.axis).data)
    config = checkpoint.config | changes
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not ...})
    path = folder / INDEX
    if path.exists():
        index = read_json(path)
        totals = {
            "total_parameters": sum(math.prod(tensor.shape) for tensor in kept.values()),
            "total_size": sum(tensor.nbytes for tensor in kept.values()),
        }
        places = {kept[name].name: file for name, file in index.get("weight_map", {}).items() if name in kept}
        write_json(path, index | {"metadata": index.get("metadata", {}) | totals, "weight_map": places})
    return Checkpoint(folder)


def write_manifest(folder: Path, schema: type[CheckpointManifest], **origin: object) -> dict:
    """Write manifest.json beside the files of a checkpoint folder, and return its content.

    `origin` has the fields of the schema that say where the checkpoint comes from. Every weight must be finite."""
    checkpoint = Checkpoint(folder)
    shapes = prunable_shapes(checkpoint)
    hashes = checkpoint.hashes()
    beside = sorted({path.name for path in folder.glob("[!.]*")} - hashes.keys() - {README, "manifest.json"})
    digests = hashes | {name: sha256(folder / name) for name in beside}
    entries = {name: FileEntry(sha256=digests[name], bytes=(folder / name).stat().st_size) for name in digests}
    manifest = schema(
        format_version=MANIFEST_VERSION,
        **origin,
        architecture=checkpoint.architecture.class_name,
        prunable_layers=len(shapes),
        prunable_weights=sum(rows * cols for rows, cols in shapes.values()),
        digest=checkpoint.digest_of(hashes),
        files={name: entries[name] for name in sorted(hashes)},
        others={name: entries[name] for name in beside},
    )
    write_record_file(folder / "manifest.json", manifest)
    return manifest.model_dump()
