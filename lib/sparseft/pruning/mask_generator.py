"""Masks of every sparsity of a method in one pass, written as they come.

Weights that are ranked together (a scope: the layer, a row, a group of N:M, all layers) are pruned in the order of a
stable ascending sort by score: the first round(s * n) of them, ties by flat index. So counts are exact and masks
nested: what 50 % prunes, 60 % prunes too. No weights are sorted for it: a histogram of the scores' bits holds the
threshold of every sparsity (kernels.py), a second reading writes the masks. Memory is a few blocks a thread, whatever
the model; gradient and taylor hold their scores too. Sequential wanda is the exception: a pass a sparsity, not nested.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sparseft.checkpoints.checkpoint import BITS, Checkpoint, infinity
from sparseft.checkpoints.layers import coupled_parts, prunable_shapes
from sparseft.checkpoints.soundness import check_finite_weights, check_tensors
from sparseft.errors import InputError
from sparseft.masks import mask_kernels as kernels
from sparseft.masks.mask_file import mask_meta, pack, row_bytes, unpack
from sparseft.masks.mask_writer import MaskWriter, mask_writer
from sparseft.pruning.report import Scores, mask_report
from sparseft.pruning.scores import Calibration, Source, magnitude_source, random_source, row_blocks, wanda_scores
from sparseft.pruning.structured import unit_mask, unit_scores
from sparseft.study.config import Masks
from sparseft.study.grid import DENSE, TASK_AWARE, split_method

Emit = Callable[
    [str, int, np.ndarray], None
]  # layer, byte offset in its bits, uint8 (levels, n), good until it returns
_BUFFERS = threading.local()


@dataclass(frozen=True)
class Selection:
    """What is ranked, how much of it is pruned, and where the masks go.

    `dtypes`: of a layer's scores (BF16, F16, F32), or None where their bits are no float; `percents` ascend."""

    source: Source
    shape: dict[str, tuple[int, int]]
    dtypes: dict[str, str | None]
    percents: list[int]
    emit: Emit

    def counts(self, total: int) -> np.ndarray:
        """How many of `total` weights each level prunes, exactly, halves to even; int64 (levels,)."""
        return np.array([round(Fraction(percent * total, 100)) for percent in self.percents], np.int64)


@contextmanager
def compute_masks(
    checkpoint: Checkpoint, method: str, percents: list[int], paths: list[Path], settings: Masks, *,
    calibration: Calibration | None = None, threads: int = 1,
) -> Iterator[dict]:  # fmt: skip
    """Compute the masks of `method`, one of `paths` a sparsity (percent, ascending); yields report_{method}.json.

    The files appear when the block ends, none where it fails: what goes with them is written inside.

    `calibration` is needed where the importance looks at a task's examples. Raises InputError for what the method cannot
    do, an unknown architecture, tensors that do not fit config.json, NaN or infinity in a weight; no file is left then."""
    pattern, importance = split_method(method)
    scope = settings.scope_of(method, percents)
    if (calibration.importance if calibration else None) != (importance if importance in TASK_AWARE else None):
        raise InputError(f"{method}: calibrated for another importance", f"calibrate for {importance}")
    shape = prunable_shapes(checkpoint)
    _check_layers(checkpoint, shape)
    check_tensors(checkpoint, checkpoint.folder)
    if pattern in (DENSE, "random") and not checkpoint.prepared:  # these look at no weight
        check_finite_weights(checkpoint, checkpoint.folder)
    meta = mask_meta(method, percents, settings, checkpoint.digest) | (calibration.meta if calibration else {})
    with mask_writer(paths, [meta | {"sparsity": percent / 100} for percent in percents], shape) as writer:
        if pattern == DENSE:
            scores = _keep_all(writer, 0)
        elif importance == "wanda" and settings.sequential:
            scores = _sequential_wanda(checkpoint, scope, percents, settings.nm_group, calibration, writer)
            meta["scores_percent"] = next((percent for percent in percents if percent), 0)
        else:
            dtypes = {layer: checkpoint.tensors[f"{layer}.weight"].dtype for layer in shape}
            source = magnitude_source(checkpoint)
            if calibration:
                source, dtypes = calibration.source(checkpoint), dict.fromkeys(shape, "F32")
            elif pattern == "random":
                source, dtypes = random_source(checkpoint, settings.seed), dict.fromkeys(shape)
            selection = Selection(source, shape, dtypes, percents, writer.write)
            scores = _select(selection, checkpoint, pattern, scope, settings.nm_group, threads)
        yield mask_report(meta, percents, writer.kept, shape, scores)


def select_together(selection: Selection, layers: Sequence[str]) -> list[Scores]:
    """Rank all weights of `layers` as one and write their masks; two readings, three for 32-bit scores.

    A reading gives the same blocks in the same order every time: what one counts of a block holds in the next."""
    total, high, scores, seen = 0, np.zeros((), np.int64), [], []
    for layer in layers:
        histogram = np.zeros(kernels.BINS, np.int32)
        for block in selection.source(layer):
            kernels.count_high(block, histogram)
            total, word = total + block.size, block.dtype
            if word == np.uint16 and len(layers) == 1:  # 128 KB a block of 2 MB; a whole model's would be too much
                seen.append(_buffer(("seen", len(seen)), kernels.LOW, np.int32))
                seen[-1][:] = histogram[: kernels.LOW]
        scores.append(_scores(selection, layer, histogram))
        high = histogram if len(layers) == 1 else high + histogram
    digits, ties = _bins_of(high, selection.counts(total))
    if word == np.uint32:
        digits = _low_digits(selection, layers, digits, ties)
    thresholds, unknown = digits.astype(word), np.full(ties.size, np.iinfo(np.int64).max)
    equals = iter(_ties_by_block(seen, digits))
    for layer in layers:
        cols = selection.shape[layer][1]

        def write(block: np.ndarray, packed: np.ndarray, cols: int = cols) -> None:
            # rows of whole bytes are one long row, which has no ends to treat apart
            width, equal = cols if cols % 8 else block.size, next(equals, unknown)
            whole = equal <= ties  # all ties of the block are pruned: the next threshold does, and none is looked for
            left = np.where(whole, 0, ties)
            kernels.write_masks(block, width, thresholds + whole.astype(word), left, packed)
            ties[:] = np.where(whole, ties - equal, left)

        _write_blocks(selection, layer, write)
    return scores


def select_rows(selection: Selection, layer: str) -> Scores:
    """Rank every row of a layer by itself."""
    cols = selection.shape[layer][1]
    counts, histogram = selection.counts(cols), np.zeros(kernels.BINS, np.int32)

    def write(block: np.ndarray, packed: np.ndarray) -> None:
        kernels.count_high(block, histogram)
        kernels.write_row_masks(block, cols, counts, packed)

    _write_blocks(selection, layer, write)
    return _scores(selection, layer, histogram)


def select_groups(selection: Selection, layer: str, group: int) -> Scores:
    """N:M: rank every `group` consecutive weights of a row by themselves.

    Raises InputError where they do not divide a row."""
    cols = selection.shape[layer][1]
    if cols % group:
        raise InputError(f"{layer}: its {cols} columns are no groups of {group}", "choose another masks.nm_group")
    counts, histogram = selection.counts(group), np.zeros(kernels.BINS, np.int32)

    def write(block: np.ndarray, packed: np.ndarray) -> None:
        kernels.count_high(block, histogram)
        kernels.write_group_masks(block, cols, group, counts, packed)

    _write_blocks(selection, layer, write)
    return _scores(selection, layer, histogram)


def _check_layers(checkpoint: Checkpoint, shape: dict[str, tuple[int, int]]) -> None:
    for layer, (rows, cols) in shape.items():
        if checkpoint.tensors[f"{layer}.weight"].dtype not in BITS:
            raise InputError(f"{layer}.weight is not in one of {', '.join(BITS)}", "convert the checkpoint")
        if rows * cols >= 1 << 31:  # a layer is counted in int32
            raise InputError(f"{layer}.weight has 2^31 weights or more", "check config.json: no known model has")


def _select(
    selection: Selection, checkpoint: Checkpoint, pattern: str, scope: str, group: int, threads: int
) -> dict[str, Scores]:
    layers = list(selection.shape)
    if scope == "global":
        if len(kinds := set(selection.dtypes.values())) > 1:
            raise InputError(f"{checkpoint.folder}: layers in {' and '.join(sorted(kinds))}", "use scope layer or row")
        return dict(zip(layers, select_together(selection, layers), strict=True))
    if pattern == "structured":
        groups = coupled_parts(checkpoint)
        return {name: scores for found in _in_threads(lambda parts: _select_units(selection, parts), groups, threads)
                for name, scores in found.items()}  # fmt: skip
    one = _by_scope(selection, scope, group)
    return dict(zip(layers, _in_threads(one, layers, threads), strict=True))


def _by_scope(selection: Selection, scope: str, group: int) -> Callable[[str], Scores]:
    """The function that selects within one layer."""
    return {
        "layer": lambda layer: select_together(selection, [layer])[0],
        "row": lambda layer: select_rows(selection, layer),
        "group": lambda layer: select_groups(selection, layer, group),
    }[scope]


def _in_threads(function: Callable, items: Sequence, threads: int) -> list:
    """`function` of every item, in order; layers are independent, and one is read while another is counted."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in tqdm(futures, desc="masks", disable=None)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ties_by_block(seen: list[np.ndarray], digits: np.ndarray) -> np.ndarray:
    """How many weights of each block lie at each threshold, int64 (blocks, levels): the differences of the counts that
    stood after each block of the first reading, which the second meets one by one. None where those were not kept."""
    return np.diff([counts[digits] for counts in seen], axis=0, prepend=0) if seen else np.empty((0, digits.size))


def _write_blocks(selection: Selection, layer: str, write: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Hand every block and room for its masks, uint8 (levels, n), to `write`, and emit what it wrote."""
    cols, levels, offset = selection.shape[layer][1], len(selection.percents), 0
    for block in selection.source(layer):
        size = block.size // cols * row_bytes(cols)
        packed = _buffer("masks", levels * size, np.uint8).reshape(levels, size)
        write(block, packed)
        selection.emit(layer, offset, packed)
        offset += size


def _buffer(name: Hashable, size: int, dtype: type) -> np.ndarray:
    """Memory of this thread, (size,), as its last user left it: fresh memory would cost a page fault every 4 KB."""
    held = vars(_BUFFERS)
    if name not in held or held[name].size < size:
        held[name] = np.empty(size, dtype)
    return held[name][:size]


def _low_digits(selection: Selection, layers: Sequence[str], digits: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Whole 32-bit thresholds from high digits; `ties` become those of the whole threshold."""
    hit = np.unique(digits)
    slots = np.full(kernels.BINS, -1, np.int8)
    slots[hit] = np.arange(hit.size)
    # half the cache, where it holds the counts: a layer has fewer weights, a model may have more
    low = np.zeros((hit.size, kernels.LOW), np.int32 if len(layers) == 1 else np.int64)
    for layer in layers:
        for block in selection.source(layer):
            kernels.count_low(block, slots, low)
    thresholds = digits * kernels.LOW
    for level, digit in enumerate(digits):
        rest, ties[level : level + 1] = _bins_of(low[slots[digit]], ties[level : level + 1])
        thresholds[level] += rest[0]
    return thresholds


def _bins_of(histogram: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the bin in which the first counts[j] end, how many of that bin are among them), int64 (levels,) each."""
    used = np.flatnonzero(histogram != 0)  # of bool: a fifth of the time
    ends = np.cumsum(histogram[used], dtype=np.int64)
    places = np.searchsorted(ends, counts)
    return used[places], counts - (ends[places] - histogram[used[places]])


def _scores(selection: Selection, layer: str, histogram: np.ndarray) -> Scores:
    dtype = selection.dtypes[layer]
    if dtype and histogram[infinity(dtype) >> (15 if dtype == "F32" else 0) :].any():
        raise InputError(f"{layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
    return Scores.of_histogram(histogram, dtype)


def _select_units(selection: Selection, parts: list) -> dict[str, Scores]:
    """Structured: rank the coupled units of `parts`, and write the masks of their layers."""
    units = unit_scores(selection.source, selection.shape, selection.dtypes, parts)
    order = np.argsort(units, kind="stable")
    found = Scores.of_values(units)
    kept = [order[count:] for count in selection.counts(units.size)]
    for part in parts:
        offset = 0
        for rows in row_blocks(*selection.shape[part.layer]):
            packed = np.stack([unit_mask(units, part, selection.shape[part.layer], rows) for units in kept])
            selection.emit(part.layer, offset, packed)
            offset += packed.shape[1]
    return {part.layer: found for part in parts}


def _keep_all(writer: MaskWriter, level: int) -> dict[str, Scores]:
    """Write ones for one level; there are no scores then."""
    for layer, (rows, cols) in writer.shape.items():
        row, offset = pack(np.ones((1, cols), bool)), 0
        for block in row_blocks(rows, cols):
            packed = np.tile(row, len(block))
            writer.write(layer, offset, packed, range(level, level + 1))
            offset += packed.size
    return dict.fromkeys(writer.shape, Scores({}, {}, 0))


def _sequential_wanda(
    checkpoint: Checkpoint, scope: str, percents: Iterable[int], group: int, calibration: Calibration,
    writer: MaskWriter,
) -> dict[str, Scores]:  # fmt: skip
    """As published: a decoder layer's inputs come from the pruned layers before it, so every sparsity is a pass.

    Returns the scores of the first pass: those of another see other inputs."""
    scores: dict[str, Scores] = {}
    for level, percent in enumerate(percents):
        if not percent:
            _keep_all(writer, level)
            continue

        def prune(layer: str, norms: np.ndarray, level: int = level, percent: int = percent) -> np.ndarray:
            blocks: list[np.ndarray] = []

            def emit(layer: str, offset: int, packed: np.ndarray) -> None:
                writer.write(layer, offset, packed, range(level, level + 1))
                blocks.append(packed[0].copy())

            weights = wanda_scores(checkpoint.read_float32(f"{layer}.weight"), norms)
            shape = {layer: writer.shape[layer]}
            selection = Selection(lambda _: iter([weights]), shape, {layer: "F32"}, [percent], emit)
            found = _by_scope(selection, scope, group)(layer)
            scores.setdefault(layer, found)
            return unpack(np.concatenate(blocks).reshape(shape[layer][0], -1), shape[layer])

        calibration.prune_in_sequence(checkpoint, prune)
    return scores or dict.fromkeys(writer.shape, Scores({}, {}, 0))
