"""Infer the mask of a checkpoint that another tool pruned, by comparing it with the model that the tool was given.

Such a checkpoint holds no mask, and its zeros are not the mask, because a weight of the model may be zero too:

    pruned          zero in the checkpoint, but not in the model
    natural zero    zero in both; nothing shows that the tool pruned it, so the mask keeps it
    kept            everything else, also a weight that the tool changed (SparseGPT's update, a merged adapter)

-0.0 is zero. A weight that the tool kept, and that became exactly zero, cannot be told from a pruned one. The mask therefore
says that it is inferred.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sparseft.architectures import tensor_shapes
from sparseft.checkpoints.checkpoint import DTYPES, Checkpoint
from sparseft.checkpoints.conversion import read_exactly
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.checkpoints.model_source import open_source
from sparseft.checkpoints.soundness import is_finite
from sparseft.errors import InputError
from sparseft.language_model.model import model_config
from sparseft.pruning.pruned_base import PrunedFiles, pruned_writer
from sparseft.study.config import Masks

# How far the share of pruned weights may be from the configured sparsity. Tools round per row or block.
TOLERANCE = 0.01
# Keys of a configuration that do not change what a model computes from tokens, so that tools may write other values.
_WITHOUT_EFFECT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_WITHOUT_EFFECT |= {"bos_token_id", "eos_token_id", "pad_token_id"}
_GIVE_BASE = "give the model that the tool pruned (models.NAME.source, or --model_path)"


@dataclass(frozen=True)
class InferredLayer:
    """Hold what the comparison of one layer shows.

    kept: the mask, bool (rows, cols)
    weights: the checkpoint's bits in the base's dtype, (rows, cols)
    natural_zeros: how many weights are zero in both
    changed_weights: how many weights are not zero, and have another value than in the base"""

    kept: np.ndarray
    weights: np.ndarray
    natural_zeros: int
    changed_weights: int


def infer_layer(base: np.ndarray, pruned: np.ndarray) -> InferredLayer:
    """Return the mask and the weights of one layer from its bits in the base and in the pruned checkpoint, (rows, cols)."""
    is_zero = _is_zero(pruned)
    natural = is_zero & _is_zero(base)
    kept = natural | ~is_zero
    changed = ~is_zero & (pruned != base)
    return InferredLayer(kept, pruned, int(np.count_nonzero(natural)), int(np.count_nonzero(changed)))


def import_pruned(base: Checkpoint, source: str, method: str, percent: int, places: PrunedFiles) -> dict:
    """Write the mask, its report and the pruned base of a checkpoint that another tool pruned to `percent`.

    Return the sparsity that it reaches, as a fraction, and the counts of `InferredLayer` over all layers. One layer at a time
    is in memory. `base` is the model that the tool was given. Raises InputError if the checkpoint does not come from it
    (`PrunedSource`), or if it has another sparsity."""
    pruned = PrunedSource.open(source, base)
    pruned.check_outside()
    shapes = prunable_shapes(base)
    meta = {"inferred": True, "source": source, "source_digest": pruned.checkpoint.digest}
    with pruned_writer(base, method, percent, Masks(), places, meta) as writer:
        kept = 0
        totals: Counter[str] = Counter()
        for layer in tqdm(shapes, desc="layers", disable=None):
            inferred = pruned.layer(layer)
            counts = {"natural_zeros": inferred.natural_zeros, "changed_weights": inferred.changed_weights}
            writer.write(layer, inferred.kept, inferred.weights, **counts)
            totals.update(counts)
            kept += int(np.count_nonzero(inferred.kept))
        reached = 1 - kept / sum(rows * cols for rows, cols in shapes.values())
        _check_sparsity(source, percent, reached)
        writer.record(**totals)
    return {"reached": reached, **totals}


def _check_sparsity(source: str, percent: int, reached: float) -> None:
    """Raise InputError if the share of pruned weights differs from the configured one by more than the rounding of a tool."""
    if abs(reached - percent / 100) > TOLERANCE:
        raise InputError(
            f"{source}: {100 * reached:.2f} % of the prunable weights are pruned, not {percent} %",
            f"{_describe_as(round(100 * reached))}correct the source",
        )


def _describe_as(percent: int) -> str:
    """Return how to name the checkpoint by its own sparsity, before another advice; empty if it prunes nothing or all."""
    return f"describe it as the checkpoint at {percent} %, or " if 0 < percent < 100 else ""


@dataclass(frozen=True)
class PrunedSource:
    """Compare a pruned checkpoint with its base, tensor by tensor. Both may be divided into files in different ways."""

    source: str
    base: Checkpoint
    checkpoint: Checkpoint

    @classmethod
    def open(cls, source: str, base: Checkpoint) -> "PrunedSource":
        """Return the pruned checkpoint of a `path:` or `hub:` source.

        Raises InputError if it cannot be read, or if its configuration or the shapes of its tensors are not those of the
        base."""
        pruned = cls(source, base, open_source(source))
        pruned._check_shapes()
        pruned._check_configuration()
        return pruned

    def layer(self, layer: str) -> InferredLayer:
        """Return what the comparison of a prunable layer shows.

        Raises InputError if a weight of the two is not finite, or is not a number of the base's dtype."""
        name = f"{layer}.weight"
        base = self.base.read(name)
        _check_finite(self.base.folder, name, base, self.base.tensors[name].dtype)
        return infer_layer(base, self._read(name))

    def check_outside(self) -> None:
        """Raise InputError if a tensor outside the prunable layers differs from the base, naming the first one."""
        masked = {f"{layer}.weight" for layer in prunable_shapes(self.base)}
        for name in tensor_shapes(self.base.config, self.base.folder):
            if name not in masked and not np.array_equal(self._read(name), self.base.read(name)):
                is_rounded = self.checkpoint.tensors[name].dtype != self.base.tensors[name].dtype
                raise InputError(
                    f"{self.source}: {name} differs from {self.base.folder}, and a mask cannot hold this change",
                    f"{self._prepare(name)}, or {_GIVE_BASE}" if is_rounded else _GIVE_BASE,
                )

    def _read(self, name: str) -> np.ndarray:
        """Return the bits of a tensor of the checkpoint in the base's dtype.

        Raises InputError if this changes a value, or if a value is not finite."""
        dtype = self.base.tensors[name].dtype
        stored = self.checkpoint.tensors[name].dtype
        bits = read_exactly(self.checkpoint, name, dtype)
        if bits is None:
            raise InputError(
                f"{self.source}: {name} is in {stored} and has values that {dtype}, the dtype of {self.base.folder}, lacks",
                self._prepare(name),
            )
        _check_finite(self.source, name, bits, dtype)
        return bits

    def _prepare(self, name: str) -> str:
        """Return the advice to prepare the base in the dtype in which the checkpoint has a tensor."""
        stored = self.checkpoint.tensors[name].dtype
        torch_name = next(key for key, value in DTYPES.items() if value == stored)
        return f"prepare the model in {torch_name} (models.NAME.dtype)"

    def _check_shapes(self) -> None:
        """Raise InputError if config.json describes other tensors than the base's."""
        ours = tensor_shapes(self.base.config, self.base.folder)
        theirs = tensor_shapes(self.checkpoint.config, self.source)
        name = _first_difference(ours, theirs)
        if name is not None:
            raise InputError(
                f"{self.source}: {name} is {theirs.get(name, 'missing')}, and {ours.get(name, 'missing')} in"
                f" {self.base.folder}",
                _GIVE_BASE,
            )

    def _check_configuration(self) -> None:
        """Raise InputError if the configurations describe two functions. What a file leaves out has transformers' default."""
        ours = _full_configuration(self.base.folder)
        theirs = _full_configuration(self.checkpoint.folder)
        key = _first_difference(ours, theirs)
        if key is not None:
            raise InputError(
                f"{self.source}: its config.json says {key} {theirs.get(key)!r:.100}, and that of {self.base.folder}"
                f" says {ours.get(key)!r:.100}",
                _GIVE_BASE,
            )


def _check_finite(place: Path | str, name: str, bits: np.ndarray, dtype: str) -> None:
    """Raise InputError, naming `place`, if a value of a tensor is NaN or infinity."""
    if not is_finite(bits, dtype):
        raise InputError(f"{place}: {name} holds NaN or infinity", "repair or replace the checkpoint")


def _first_difference(ours: dict, theirs: dict) -> str | None:
    """Return the first key by the alphabet whose values differ; None if there is none. A missing key has the value None."""
    return min((key for key in ours | theirs if ours.get(key) != theirs.get(key)), default=None)


def _is_zero(bits: np.ndarray) -> np.ndarray:
    """Return where a value is 0.0 or -0.0. The shift removes the sign."""
    return bits << 1 == 0


def _full_configuration(folder: Path) -> dict:
    """Return every key of a configuration that decides what the model computes, with its value or transformers' default."""
    config = model_config(folder).to_dict()
    return {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
