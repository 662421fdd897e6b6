"""Compute the masks of all sparsities of a method in one pass over the scores, and write all files of the pass
together.

The method's pattern selects what is pruned, in one of the ways of selection/. allocation.py says how many weights of
each layer, if the method has an allocation. Every importance is in importances/. Random scores are here, because they
look at no weight.

A source yields the scores of a layer block by block, as raw bits that order like the scores. A block holds whole rows,
flat, as uint16 or uint32. The sign bit means nothing. A source can be read again, and gives the same blocks in the same
order.

Memory is a few blocks per thread, for any model, and the statistic of the examples if the importance needs it. A
statistic of gradients comes decoder layer by decoder layer, unless all layers are ranked together. If masks.sequential
applies to the method, each sparsity has a pass of its own, and the masks are not nested.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.axes.grid import PassFiles
from sparseft.axes.importances import Importance
from sparseft.axes.methods import Method
from sparseft.axes.selection.ranking import Emit, Ranking, Source
from sparseft.models.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.models.checkpoints.layers import check_finite_weights, check_tensors, prunable_model, prunable_shapes
from sparseft.pruning.allocation import allocate, outlier_shares
from sparseft.pruning.mask_report import write_report
from sparseft.pruning.masks.mask_file import MaskWriter
from sparseft.pruning.masks.mask_record import MaskReport, PrunedManifest
from sparseft.pruning.masks.settings import Masks
from sparseft.storage.atomic import atomic_files
from sparseft.storage.bits import to_float32
from sparseft.storage.outputs import check_ours

# Layer -> how many of its weights each sparsity prunes, int64 (sparsities,); None without an allocation.
Allocated = dict[str, np.ndarray] | None


@dataclass(frozen=True)
class MaskPass:
    """Hold what makes the masks of a method for ascending sparsities in percent. A pass with a pruned base has one
    sparsity.

    A method that looks at examples needs a `calibration`, an ExampleCalibration, whose module imports torch."""

    checkpoint: Checkpoint
    method: Method
    percents: list[int]
    files: PassFiles
    settings: Masks
    calibration: Any = None
    threads: int = 1

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return layer -> (rows, cols)."""
        return prunable_shapes(self.checkpoint)

    @property
    def model(self) -> PrunableModel:
        """Return the model that is pruned, without its weights."""
        return prunable_model(self.checkpoint)

    @cached_property
    def scope(self) -> str:
        """Return what is ranked together. Raises InputError if the settings do not allow the method."""
        return self.settings.scope_of(self.method, self.percents)

    @property
    def origin(self) -> dict[str, Any]:
        """Return what the manifest of a pruned base, and its mask, say about where it comes from."""
        return {"method": self.method.name, "sparsity": self.percents[0] / 100, "original": self.checkpoint.digest}

    def check_outputs(self) -> None:
        """Raise InputError if a file of the pass may be somebody else's."""
        check_ours(self.files.report, MaskReport.known_by, *self.files.masks)
        if base := self.files.base:
            check_ours(base / "manifest.json", PrunedManifest.known_by, base)

    def checked_meta(self) -> dict:
        """Return the metadata of the masks, without their sparsities.

        Raises InputError if the settings do not allow the method, if the architecture is unknown, if tensors do not fit
        config.json, or if a weight is not finite. Scores are checked when they are ranked."""
        method, checkpoint = self.method, self.checkpoint
        assert self.scope and (self.calibration or not method.uses_examples), f"{method.name} looks at examples"
        check_tensors(checkpoint, checkpoint.folder)
        if (method.has_pruned_base or not method.importance) and not checkpoint.prepared:
            check_finite_weights(checkpoint, checkpoint.folder)
        return {
            "method": method.name,
            "pattern": method.pattern.name,
            "importance": method.importance.name if method.importance else "none",
            "coordinates": "hf",
            "base": checkpoint.digest,
            **self.settings.used_by(method),
            "scope": self.scope,
            **(self.calibration.meta if self.calibration else {}),
        }

    def allocate(self) -> tuple[list[float], dict[str, np.ndarray]]:
        """Return the results of `outlier_shares` and of `allocate` for a method with an allocation."""
        importance = self.method.allocation and self.method.allocation.importance
        assert importance and importance.statistic, f"{self.method.name} has no allocation"
        norms = self.calibration.compute(self.checkpoint, importance.statistic)
        source = scored_source(self.checkpoint, importance, norms)
        shares, group = outlier_shares(source, self.shapes, self.settings), self.method.pattern.group
        return shares, allocate(shares, self.shapes, self.percents, self.settings, group)

    def ranking(
        self, source: Source, dtypes: Mapping[str, str | None], emit: Emit, allocated: Allocated = None
    ) -> Ranking:
        """Return the ranking of the layers of `dtypes` by the scores of a source. `emit` takes the masks."""
        return Ranking(
            source,
            {layer: self.shapes[layer] for layer in dtypes},
            dtypes,
            self.percents,
            emit,
            allocated,
            scope=self.scope,
            sums_columns=self.method.looks_at_inputs,
            model=self.model,
            settings=self.settings,
            threads=self.threads,
        )


def compute_masks(masks: MaskPass) -> dict:
    """Compute the masks of a pass, write them, and return their report. All files appear together, or none.

    Raises InputError as `MaskPass.checked_meta` does."""
    meta, allocated, select = masks.checked_meta(), None, masks.method.pattern.select
    assert select, "another tool makes imported masks"
    if masks.method.allocation:
        meta["outliers"], allocated = masks.allocate()
    metas = [meta | {"sparsity": percent / 100} for percent in masks.percents]
    with atomic_files(masks.files.report, MaskReport.known_by) as folder:
        writer = MaskWriter([folder / path.name for path in masks.files.masks], metas, masks.shapes)
        if masks.settings.is_sequential(masks.method):
            parts = _rankings_in_sequence(masks, writer, allocated)
        else:
            parts = rankings(masks, writer.write, allocated)
        for ranking in parts:
            select(ranking)
            del ranking
        return write_report(folder, masks.files, meta, writer)


def rankings(masks: MaskPass, emit: Emit, allocated: Allocated = None) -> Iterator[Ranking]:
    """Yield the scores of all layers, in parts that hold all that is ranked together. `emit` takes the masks."""
    checkpoint, importance, layers = masks.checkpoint, masks.method.importance, masks.shapes
    statistic = importance.statistic if importance else None
    if not importance or importance.is_random:
        # Random bits are those of no float.
        yield masks.ranking(random_source(layers, masks.settings.seed), dict.fromkeys(layers), emit, allocated)
    elif not importance.score:
        dtypes = {layer: checkpoint.tensors[f"{layer}.weight"].dtype for layer in layers}
        # The weights' own bits are the scores.
        source = lambda layer: checkpoint.read_blocks(f"{layer}.weight", BLOCK)  # noqa: E731
        yield masks.ranking(source, dtypes, emit, allocated)
    elif statistic and statistic.of_gradients and masks.scope != "global":
        for values in masks.calibration.compute_gradients(checkpoint, statistic):
            # In the model's order.
            dtypes = {layer: "F32" for layer in layers if layer in values}
            yield masks.ranking(scored_source(checkpoint, importance, values), dtypes, emit, allocated)
            # Each part of the statistic is freed before the next one is computed.
            del values
    else:
        values = masks.calibration.compute(checkpoint, statistic) if statistic else None
        yield masks.ranking(
            scored_source(checkpoint, importance, values), dict.fromkeys(layers, "F32"), emit, allocated
        )


def _rankings_in_sequence(masks: MaskPass, writer: MaskWriter, allocated: Allocated) -> Iterator[Ranking]:
    """Yield the scores of each layer once per sparsity, by the inputs that it has after the pruned layers before it."""
    import torch

    importance = masks.method.importance
    assert importance and importance.statistic, "sequential methods look at inputs"
    for level, percent in enumerate(masks.percents):
        single, emit = replace(masks, percents=[percent]), partial(writer.write, levels=[level])
        if not percent:
            # Any scores keep every weight.
            yield single.ranking(random_source(masks.shapes, 0), dict.fromkeys(masks.shapes), emit)
            continue
        for weights, values_of in masks.calibration.in_sequence(masks.checkpoint, importance.statistic):
            for layer, weight in weights.items():
                source = scored_source(masks.checkpoint, importance, {layer: values_of(layer).cpu().numpy()})
                counts = allocated and {layer: allocated[layer][[level]]}
                yield single.ranking(source, {layer: "F32"}, emit, counts)
                weight.masked_fill_(torch.from_numpy(~writer.mask(layer, level)).to(weight.device), 0)


def random_source(shapes: dict[str, tuple[int, int]], seed: int) -> Source:
    """Return 31 random bits per weight, which depend only on the seed, the layer's name and the place.

    Every row takes whole 64-bit words of Philox, so that the bits are the same on every machine. `shapes` has layer ->
    (rows, cols)."""

    def blocks(layer: str) -> Iterator[np.ndarray]:
        key = hashlib.sha256(f"{seed}/{layer}".encode()).digest()[:16]
        generator = np.random.Philox(key=int.from_bytes(key, "little"))
        rows, cols = shapes[layer]
        words_per_row = (cols + 1) // 2
        step = max(1, BLOCK // cols)
        for start in range(0, rows, step):
            words = generator.random_raw(min(step, rows - start) * words_per_row)
            bits = words.astype("<u8").view("<u4").reshape(-1, 2 * words_per_row)
            yield np.ascontiguousarray(bits[:, :cols]).reshape(-1)

    return blocks


def scored_source(checkpoint: Checkpoint, importance: Importance, values: dict[str, np.ndarray] | None) -> Source:
    """Return the scores of an importance that has a `score`, fp32. `values` is its statistic by layer; None without
    one."""
    score = importance.score
    assert score, f"{importance.name} has no score"
    has_rows = importance.statistic and importance.statistic.of_gradients

    def blocks(layer: str) -> Iterator[np.ndarray]:
        of_layer: Any = values and values[layer]
        column_sums = []
        if importance.uses_column_sums:
            sums = (np.abs(block).sum(axis=0, dtype=np.float64) for block in _read_weights(checkpoint, layer))
            column_sums = [sum(sums).astype(np.float32)]
        start = 0
        for weights in _read_weights(checkpoint, layer):
            end = start + len(weights)
            scores = score(weights, of_layer[start:end] if has_rows else of_layer, *column_sums)
            yield np.ascontiguousarray(scores).reshape(-1).view(np.uint32)
            start = end

    return blocks


def _read_weights(checkpoint: Checkpoint, layer: str) -> Iterator[np.ndarray]:
    """Yield W of a layer, fp32 (rows, cols), some rows at a time."""
    tensor = checkpoint.tensors[f"{layer}.weight"]
    for bits in checkpoint.read_blocks(tensor.name, BLOCK):
        yield to_float32(bits, tensor.dtype).reshape(-1, tensor.shape[1])
