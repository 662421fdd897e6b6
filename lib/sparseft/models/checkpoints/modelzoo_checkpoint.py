"""Read a ModelZoo checkpoint, `.mdl`, as the Hugging Face checkpoint that it stands for.

Names, order of rows and separate experts are Hugging Face's. So whatever reads a `Checkpoint` reads it too, one tensor
or one block of rows at a time, and its masks are in Hugging Face's coordinates. An .mdl file does not describe its
architecture: config.json comes from a Hugging Face folder.

Rotary embeddings pair row j of a head with row j + d/2 in Hugging Face's code, and with the next row in ModelZoo's. So
the rows of each head of q and k are interleaved: (2, d/2) -> (d/2, 2). Their masks and lora_B are permuted in the same
way. lora_A is the same in both."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparseft.axes.architectures import find_architecture, tensor_shapes
from sparseft.axes.architectures.architecture import Shapes, attention_heads
from sparseft.axes.architectures.decoder import ROTATED
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint, Tensor, small_files
from sparseft.models.checkpoints.layers import differences
from sparseft.models.checkpoints.mdl import BRANCH, MdlFile, MdlTensor
from sparseft.models.checkpoints.rewriting import safetensors_stream
from sparseft.models.checkpoints.settings import split_mdl
from sparseft.storage.bits import BITS
from sparseft.storage.hashes import hash_files

_IN_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Place:
    """Locate a weight in a ModelZoo model.

    `key` is the parameter's name, without the leading "model." of trainer checkpoints. `expert` is the weight's number
    on axis 1, if the parameter stacks experts. `head_dim` is the number of rows of a head, if they are interleaved."""

    key: str
    expert: int | None = None
    head_dim: int | None = None

    def stored_shape(self, shape: tuple[int, ...], config: dict) -> tuple[int, ...]:
        """Return the shape of the parameter, from that of the weight."""
        return shape if self.expert is None else (shape[0], config["num_local_experts"], *shape[1:])

    def selection(self, rows: slice) -> slice | tuple[slice, int]:
        """Return what selects some rows of the weight from the parameter."""
        return rows if self.expert is None else (rows, self.expert)

    def to_modelzoo(self, rows: np.ndarray) -> np.ndarray:
        """Return whole heads of rows, of the weight, its mask or its lora_B, in ModelZoo's order."""
        if not self.head_dim:
            return rows
        halves = rows.reshape(-1, 2, self.head_dim // 2, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    def to_hugging_face(self, rows: np.ndarray) -> np.ndarray:
        """Return rows in Hugging Face's order. It is the inverse of `to_modelzoo`."""
        pairs = rows.reshape(-1, self.head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2) if self.head_dim else rows
        return np.ascontiguousarray(pairs.reshape(rows.shape))


def places(config: dict, shapes: Shapes) -> dict[str, Place]:
    """Return the place of each tensor in `shapes`, in their order; they are the tensors that `config` describes.

    Raises InputError if ModelZoo has no model of this architecture."""
    architecture = find_architecture(config.get("architectures"), "config.json")
    names = architecture.modelzoo_names
    if names is None:
        raise InputError(f"Cerebras ModelZoo has no names for {architecture.class_name}", "use a Hugging Face folder")
    head_dim = attention_heads(config).size
    located = {}
    for tensor in shapes:
        layer = tensor.removesuffix(".weight")
        if layer in names:
            located[tensor] = Place(names[layer])
            continue
        number, name = layer.removeprefix("model.layers.").split(".", 1)
        prefix = f"transformer_decoder.layers.{number}"
        if in_expert := _IN_EXPERT.fullmatch(name):
            block, expert, matrix = in_expert.groups()
            located[tensor] = Place(f"{prefix}.{names[f'{block}.{{expert}}.{matrix}']}", expert=int(expert))
        else:
            located[tensor] = Place(f"{prefix}.{names[name]}", head_dim=head_dim if name in ROTATED else None)
    return located


def duplicates(config: dict) -> dict[str, str]:
    """Return the keys that a ModelZoo model has in addition -> the key with the same values."""
    same = {"ln_f.weight": "transformer_decoder.norm.weight"}
    if config.get("tie_word_embeddings"):
        same["lm_head.weight"] = "embedding_layer.word_embeddings.weight"
    return same


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

        Raises InputError if they are not those of the model that config.json describes. Masks and copies beside their
        parameters are allowed."""
        branch = f"{BRANCH}."
        stored = {
            key.removeprefix(branch).removeprefix("model."): tensor
            for key, tensor in self.mdl.tensors.items()
            if key.startswith(branch)
        }
        expected = {
            place.key: place.stored_shape(self.shapes[name], self.config) for name, place in self.places.items()
        }
        copies = {key: other for key, other in duplicates(self.config).items() if key in stored}
        masks = {f"{key}_mask" for key in expected}
        shapes = {key: tensor.shape for key, tensor in stored.items() if key not in copies.keys() | masks}
        faults = differences(shapes, expected)
        faults += [f"{key} is in none of {', '.join(BITS)}" for key in shapes if stored[key].dtype not in BITS]
        # A copy that differs would be lost.
        faults = faults or [
            f"{key} is not {other}"
            for key, other in copies.items()
            if stored[key] != stored[other]
            and not np.array_equal(self.mdl.read(stored[key]), self.mdl.read(stored[other]))
        ]
        if faults:
            raise InputError(
                f"{self.file}: it is not the model of {self.folder / 'config.json'}: {', '.join(faults)}",
                "give its own Hugging Face folder, as FILE.mdl@FOLDER; merge adapters first",
            )
        return stored

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its Hugging Face name. It has no place of its own in the file."""
        tensors = {}
        for name, shape in self.shapes.items():
            dtype = self.stored[self.places[name].key].dtype
            tensors[name] = Tensor(name, self.file, dtype, shape, 0, BITS[dtype].itemsize * math.prod(shape))
        return tensors

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Return a tensor's bits, as `Checkpoint.read` does."""
        return next(self._rows(name, math.prod(self.shapes[name])))[rows or ...]

    def read_bytes(self, name: str) -> memoryview:
        """Return a tensor's bytes, as `Checkpoint.read_bytes` does."""
        return self.read(name).reshape(-1).view(np.uint8).data

    def read_blocks(self, name: str, block: int) -> Iterator[np.ndarray]:
        """Yield a tensor's bits as `Checkpoint.read_blocks` does. A block of q or k consists of whole heads."""
        return (rows.reshape(-1) for rows in self._rows(name, block))

    @cached_property
    def digest(self) -> str:
        """Return the digest of the folder that `prepare_model` would make of this checkpoint in its own dtype."""
        weights = hashlib.sha256()
        for part in safetensors_stream(self, self.tensors):
            weights.update(part.data)
        return self.digest_of(hash_files(small_files(self.folder)) | {"model.safetensors": weights.hexdigest()})

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
            yield place.to_hugging_face(self.mdl.read(self.stored[place.key], place.selection(rows)))


def open_checkpoint(place: Path) -> Checkpoint:
    """Return the checkpoint at a place that a user names: a Hugging Face folder, or FILE.mdl[@FOLDER]."""
    mdl = split_mdl(str(place))
    if not mdl:
        return Checkpoint(place)
    file, folder = mdl
    return ModelZooCheckpoint(folder=folder, file=file)
