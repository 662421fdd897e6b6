"""A ModelZoo checkpoint, `.mdl`, read as the Hugging Face checkpoint that it stands for: names, coordinates, experts apart.

What reads a `Checkpoint` reads it too, one tensor or a block of rows at a time, and its masks are in Hugging Face
coordinates. An .mdl file says nothing of the architecture: config.json comes from a Hugging Face folder.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparseft.checkpoints.checkpoint import BITS, BLOCK, Checkpoint, Tensor, lay_out, small_files
from sparseft.checkpoints.conversion import safetensors_stream
from sparseft.checkpoints.mdl import MdlFile, MdlTensor
from sparseft.checkpoints.modelzoo_names import Place, deinterleave, duplicates, places
from sparseft.checkpoints.shapes import Shapes, tensor_shapes
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.study.config import split_mdl

BRANCH = "model"


@dataclass(frozen=True)
class ModelZooCheckpoint(Checkpoint):
    """Read `file` with the config.json and the tokenizer of `folder`.

    Raises InputError where the two do not belong together, and as `MdlFile` does."""

    file: Path
    prepared: ClassVar[bool] = False  # a manifest.json in `folder` records other weights

    @cached_property
    def mdl(self) -> MdlFile:
        """The file as it is."""
        return MdlFile(self.file)

    @cached_property
    def files(self) -> list[Path]:
        """The one file."""
        return [self.file]

    @cached_property
    def shapes(self) -> Shapes:
        """Hugging Face's name of a tensor -> shape, of the model that config.json describes; sorted."""
        return dict(sorted(tensor_shapes(self.config, str(self.folder)).items()))

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each of them lies in the file."""
        return places(self.config, self.shapes)

    @cached_property
    def stored(self) -> dict[str, MdlTensor]:
        """The file's tensors by their keys without the leading "model." of trainer checkpoints; checked, once for all."""
        self.mdl.check_plain(BRANCH)
        keys = {key: key.removeprefix(f"{BRANCH}.").removeprefix("model.") for key in self.mdl.tensors
                if key.startswith(f"{BRANCH}.")}  # fmt: skip
        stored = {key: self.mdl.tensors[full] for full, key in keys.items()}
        faults = _faults(stored, self._expected(), duplicates(self.config)) if stored else ["no tensor under `model`"]
        if len(keys) > len(stored):
            faults.append("keys with and without a leading `model.`")
        if not faults:
            faults = [f"{key} is not {other}" for key, other in duplicates(self.config).items()
                      if key in stored and not self._same(stored[key], stored[other])]  # fmt: skip
        if faults:
            raise InputError(
                f"{self.file}: not the model of {self.folder / 'config.json'}: {', '.join(faults)}",
                "give its own Hugging Face folder, as FILE.mdl@FOLDER; merge adapters before",
            )
        return stored

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its Hugging Face name; `start` is where it lies in `content`."""
        dtypes = {name: self.stored[place.key].dtype for name, place in self.places.items()}
        return lay_out(self.file, {name: (dtypes[name], shape) for name, shape in self.shapes.items()})

    def read(self, name: str) -> np.ndarray:
        """As `Checkpoint.read`."""
        whole, start = np.empty(self.shapes[name], BITS[self.tensors[name].dtype]), 0
        for rows in self._rows(name, BLOCK):
            whole[start : start + len(rows)] = rows
            start += len(rows)
        return whole

    def read_bytes(self, name: str) -> memoryview:
        """As `Checkpoint.read_bytes`."""
        return self.read(name).reshape(-1).view(np.uint8).data

    def read_blocks(self, name: str, block: int) -> Iterator[np.ndarray]:
        """As `Checkpoint.read_blocks`, but for the one buffer; of q and k, blocks of whole heads."""
        return (rows.reshape(-1) for rows in self._rows(name, block))

    @cached_property
    def digest(self) -> str:
        """Return the digest of the folder that `prepare_model` makes of this checkpoint in its own dtype."""
        weights = hashlib.sha256()
        for part in safetensors_stream(self, self.tensors):
            weights.update(part)
        hashes = {file.name: sha256(file) for file in small_files(self.folder)}
        return self.digest_of(hashes | {"model.safetensors": weights.hexdigest()})

    def _rows(self, name: str, block: int) -> Iterator[np.ndarray]:
        """The bits of a tensor's rows in Hugging Face's order, about `block` weights at once."""
        place, shape = self.places[name], self.shapes[name]
        step = max(1, block // (shape[1] if len(shape) > 1 else 1))
        if place.head_dim:
            step = -(-step // place.head_dim) * place.head_dim
        for start in range(0, shape[0], step):
            selection = slice(start, start + step)
            rows = self.mdl.read(
                self.stored[place.key], selection if place.expert is None else (selection, place.expert)
            )
            yield np.ascontiguousarray(deinterleave(rows, place.head_dim) if place.head_dim else rows)

    def _expected(self) -> Shapes:
        """Key -> shape in the file, of the model that config.json describes."""
        experts = self.config.get("num_local_experts")
        return {
            place.key: self.shapes[name]
            if place.expert is None
            else (self.shapes[name][0], experts, self.shapes[name][1])
            for name, place in self.places.items()
        }

    def _same(self, one: MdlTensor, other: MdlTensor) -> bool:
        step = max(1, BLOCK // math.prod(one.shape[1:]))
        blocks = [slice(start, start + step) for start in range(0, one.shape[0], step)]
        return one == other or (
            (one.dtype, one.shape) == (other.dtype, other.shape)
            and all(np.array_equal(self.mdl.read(one, block), self.mdl.read(other, block)) for block in blocks)
        )


def open_checkpoint(place: Path) -> Checkpoint:
    """The checkpoint at a place that a user names: a Hugging Face folder, or FILE.mdl[@FOLDER]."""
    found = split_mdl(str(place))
    return ModelZooCheckpoint(folder=found[1], file=found[0]) if found else Checkpoint(place)


def _faults(stored: dict[str, MdlTensor], expected: Shapes, copies: dict[str, str]) -> list[str]:
    """How a file's tensors differ from those of its model; masks beside their parameters belong to it."""
    known = {**expected, **{key: expected[other] for key, other in copies.items()}}
    masks = {f"{key}_mask" for key, shape in expected.items() if len(shape) > 1}
    missing, foreign = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - known.keys() - masks)
    differing = sorted(key for key in known.keys() & stored.keys() if stored[key].shape != known[key])
    other = sorted(key for key in expected.keys() & stored.keys() if stored[key].dtype not in BITS)
    kinds = (
        ("missing", missing),
        ("unknown to it", foreign),
        ("of another shape", differing),
        (f"in none of {', '.join(BITS)}", other),
    )
    return [f"{len(keys)} tensors {kind} (first: {keys[0]})" for kind, keys in kinds if keys]
