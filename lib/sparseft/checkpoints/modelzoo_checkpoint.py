"""Read a ModelZoo checkpoint, `.mdl`, as the Hugging Face checkpoint that it stands for.

Names, order of rows and separate experts are Hugging Face's. So whatever reads a `Checkpoint` reads it too, one tensor or
one block of rows at a time, and its masks are in Hugging Face's coordinates. An .mdl file does not describe its
architecture: config.json comes from a Hugging Face folder.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparseft.architectures import tensor_shapes
from sparseft.architectures.architecture import Shapes
from sparseft.checkpoints.checkpoint import BITS, BLOCK, Checkpoint, Tensor, lay_out, small_files
from sparseft.checkpoints.conversion import safetensors_stream
from sparseft.checkpoints.mdl import MdlFile, MdlTensor
from sparseft.checkpoints.modelzoo_names import Place, deinterleave, duplicates, places
from sparseft.checkpoints.soundness import differences
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.study.sources import split_mdl

# The key of the tree that holds the weights.
BRANCH = "model"


@dataclass(frozen=True)
class ModelZooCheckpoint(Checkpoint):
    """Read `file` with the config.json and the tokenizer of `folder`.

    Raises InputError if the two do not belong together, and as `MdlFile` does."""

    file: Path
    # A manifest.json in `folder` records other weights.
    prepared: ClassVar[bool] = False

    @cached_property
    def mdl(self) -> MdlFile:
        """Return the .mdl file."""
        return MdlFile(self.file)

    @cached_property
    def files(self) -> list[Path]:
        """Return the one file of weights."""
        return [self.file]

    @cached_property
    def shapes(self) -> Shapes:
        """Return the shape of each tensor that config.json describes, by Hugging Face's name; sorted."""
        return dict(sorted(tensor_shapes(self.config, self.folder).items()))

    @cached_property
    def places(self) -> dict[str, Place]:
        """Return the place in the file of each of these tensors."""
        return places(self.config, self.shapes)

    @cached_property
    def stored(self) -> dict[str, MdlTensor]:
        """Return the file's tensors by key, without the leading "model." of trainer checkpoints.

        Raises InputError if they are not those of the model that config.json describes."""
        branch = f"{BRANCH}."
        keys = [key for key in self.mdl.tensors if key.startswith(branch)]
        stored = {key.removeprefix(branch).removeprefix("model."): self.mdl.tensors[key] for key in keys}
        if faults := self._faults(stored):
            raise InputError(
                f"{self.file}: it is not the model of {self.folder / 'config.json'}: {', '.join(faults)}",
                "give its own Hugging Face folder, as FILE.mdl@FOLDER; merge adapters first",
            )
        return stored

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its Hugging Face name, where it would lie in the file of `safetensors_stream`."""
        dtypes = {name: self.stored[place.key].dtype for name, place in self.places.items()}
        return lay_out(self.file, {name: (dtypes[name], shape) for name, shape in self.shapes.items()})

    def read(self, name: str) -> np.ndarray:
        """Return a tensor's bits, as `Checkpoint.read` does."""
        bits = np.empty(self.shapes[name], BITS[self.tensors[name].dtype])
        start = 0
        for rows in self._rows(name, BLOCK):
            bits[start : start + len(rows)] = rows
            start += len(rows)
        return bits

    def read_bytes(self, name: str) -> memoryview:
        """Return a tensor's bytes, as `Checkpoint.read_bytes` does."""
        return self.read(name).reshape(-1).view(np.uint8).data

    def read_blocks(self, name: str, block: int) -> Iterator[np.ndarray]:
        """Yield a tensor's bits as `Checkpoint.read_blocks` does, but each block in its own buffer.

        A block of q or k consists of whole heads."""
        return (rows.reshape(-1) for rows in self._rows(name, block))

    @cached_property
    def digest(self) -> str:
        """Return the digest of the folder that `prepare_model` would make of this checkpoint in its own dtype."""
        weights = hashlib.sha256()
        for part in safetensors_stream(self, self.tensors):
            weights.update(part)
        hashes = {file.name: sha256(file) for file in small_files(self.folder)}
        return self.digest_of(hashes | {"model.safetensors": weights.hexdigest()})

    def _rows(self, name: str, block: int) -> Iterator[np.ndarray]:
        """Yield the bits of a tensor's rows in Hugging Face's order, about `block` weights at once."""
        place = self.places[name]
        shape = self.shapes[name]
        step = max(1, block // math.prod(shape[1:]))
        if place.head_dim:
            # Rows are permuted within a head, so a block holds whole heads.
            step += -step % place.head_dim
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            selection = rows if place.expert is None else (rows, place.expert)
            bits = self.mdl.read(self.stored[place.key], selection)
            yield np.ascontiguousarray(deinterleave(bits, place.head_dim) if place.head_dim else bits)

    def _faults(self, stored: dict[str, MdlTensor]) -> list[str]:
        """Return how the file's tensors, by key, differ from those of the model that config.json describes.

        Masks and copies beside their parameters are allowed."""
        expected: Shapes = {}
        for name, place in self.places.items():
            rows, *columns = self.shapes[name]
            experts = [] if place.expert is None else [self.config["num_local_experts"]]
            expected[place.key] = (rows, *experts, *columns)
        copies = {key: other for key, other in duplicates(self.config).items() if key in stored}
        masks = {f"{key}_mask" for key in expected}
        shapes = {key: tensor.shape for key, tensor in stored.items() if key not in copies.keys() | masks}
        faults = differences(shapes, expected)
        faults += [f"{key} is in none of {', '.join(BITS)}" for key in shapes if stored[key].dtype not in BITS]
        if faults:
            return faults
        # A copy that differs would be lost.
        return [f"{key} is not {other}" for key, other in copies.items() if not self._same(stored[key], stored[other])]

    def _same(self, one: MdlTensor, other: MdlTensor) -> bool:
        """Return whether two tensors are one, or have the same dtype, shape and values."""
        return one == other or (one.dtype == other.dtype and np.array_equal(self.mdl.read(one), self.mdl.read(other)))


def open_checkpoint(place: Path) -> Checkpoint:
    """Return the checkpoint at a place that a user names: a Hugging Face folder, or FILE.mdl[@FOLDER]."""
    mdl = split_mdl(str(place))
    if not mdl:
        return Checkpoint(place)
    file, folder = mdl
    return ModelZooCheckpoint(folder=folder, file=file)
