"""Write and read what a full training hands on: a checkpoint of the trained tensors alone.

weights/model.safetensors    the tensors with the names, dtypes and shapes that they have in the base

The metadata `sparseft` of the file is JSON with the run, its mode and the sha256 of the mask, as in an adapter.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sparseft.axes.modes.mode import ADAPTER, WEIGHTS
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint, Tensor, read_header, safetensors_header
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.bits import is_finite
from sparseft.storage.hashes import sha256
from sparseft.storage.record import ORIGIN, TRAINED_BY_US, TRAINED_TENSORS, remake_advice, unaltered


@dataclass(frozen=True)
class TrainedCheckpoint(Checkpoint):
    """Read a base with the tensors that a full training changed, which are in the folder `weights`.

    Raises InputError if the file is damaged, if it is not the one that the train.json beside the folder records, if a
    tensor has another dtype or shape than in the base, or if that of a prunable layer is missing."""

    weights: Path

    @cached_property
    def trained(self) -> dict[str, Tensor]:
        """Return the trained tensors by name."""
        base = Checkpoint(self.folder)
        tensors = {tensor.name: tensor for tensor in read_header(self.weights / TRAINED_TENSORS)[1]}
        for name in [*tensors, *(f"{layer}.weight" for layer in prunable_layers(base))]:
            ours, theirs = tensors.get(name), base.tensors.get(name)
            if not ours or not theirs or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
                what = f"{self.weights}: {name} is missing, or does not fit {self.folder}"
                raise InputError(what, "give the base of the weights")
        return tensors

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name: a trained one in the place of that of the base."""
        return Checkpoint(self.folder).tensors | self.trained

    @cached_property
    def origin(self) -> dict:
        """Return where the weights come from."""
        header = read_header(self.weights / TRAINED_TENSORS)[0]
        return json.loads(json.loads(header[8:]).get("__metadata__", {}).get(ORIGIN, "{}"))

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of the trained tensors' file, after the check that train.json records it."""
        digest = sha256(self.weights / TRAINED_TENSORS)
        check_trained(self.weights, digest)
        return digest


def write_weights(folder: Path, tensors: Sequence[Tensor], values: Iterable[np.ndarray], origin: dict) -> None:
    """Write the folder. `values` are the bits of the tensors in their order. `origin`: where they come from.

    Raises InputError if a value is not finite."""
    with (
        atomic_folder(folder, TRAINED_TENSORS, TRAINED_BY_US) as temporary,
        open(temporary / TRAINED_TENSORS, "wb") as file,
    ):
        file.write(safetensors_header(tensors, {"format": "pt", ORIGIN: json.dumps(origin)}))
        for tensor, bits in zip(tensors, values, strict=True):
            if not is_finite(bits, tensor.dtype):
                raise InputError(
                    f"{tensor.name} is NaN or infinity in {tensor.dtype}", "train again with a lower learning rate"
                )
            file.write(bits.data)


def check_trained(folder: Path, digest: str) -> None:
    """Raise InputError if the train.json beside an adapter or trained weights records another digest than this one.

    Without a train.json beside it, any passes."""
    path = folder.parent / "train.json"
    if folder.name not in (ADAPTER, WEIGHTS) or not path.is_file():
        return
    content = path.read_bytes()
    if not unaltered(content) or digest != json.loads(content)["outputs"]["adapter"]:
        raise InputError(f"{folder}: not the {folder.name} that train.json records", remake_advice(folder))
