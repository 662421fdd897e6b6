"""Compare the compiled loops with numpy, weight by weight: both word sizes, odd shapes, many ties."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseft.masks.mask_file import count_kept, pack, unpack, zero_pruned
from sparseft.pruning.selection import Selection, select_groups, select_rows, select_together

PERCENTS = list(range(0, 100, 10))
SHAPES = [(1, 1), (1, 300), (300, 1), (3, 17), (2, 66), (5, 64), (4, 192), (7, 130), (9, 4100)]


def weights_of(kind: str, shape: tuple[int, int], word: type) -> np.ndarray:
    """Return the bits of floats of both signs: BF16 for uint16, fp32 for uint32."""
    rng = np.random.default_rng(shape[0] * 1000 + shape[1])
    values = rng.normal(size=shape).astype(np.float32)
    if kind == "equal":
        values[:] = -0.5
    if kind == "ties":
        values[rng.random(shape) < 0.9] = 0.25
    if kind == "zeros":
        values[rng.random(shape) < 0.5] = -0.0
    bits = values.view(np.uint32)
    return bits if word == np.uint32 else (bits >> 16).astype(np.uint16)


def magnitudes(bits: np.ndarray) -> np.ndarray:
    return bits & (np.iinfo(bits.dtype).max >> 1)


def reference(bits: np.ndarray, percent: int) -> np.ndarray:
    """Return the mask of a sparsity, bool in the shape of `bits`."""
    return sorted_mask(bits, round(Fraction(percent * bits.size, 100)))


def sorted_mask(bits: np.ndarray, count: int) -> np.ndarray:
    """Return the mask that prunes `count` weights, by numpy's stable sort, bool in the shape of `bits`."""
    order = np.argsort(magnitudes(bits).ravel(), kind="stable")
    kept = np.ones(bits.size, bool)
    kept[order[:count]] = False
    return kept.reshape(bits.shape)


def masks_by(select, bits: np.ndarray, percents: list[int] = PERCENTS, counts: np.ndarray | None = None) -> np.ndarray:
    """Return what `select` writes for one layer, in blocks of three rows: bool (levels, rows, cols).

    `counts`: how many weights each level prunes, if they do not follow from `percents`."""
    rows, cols = bits.shape
    row_bytes = (cols + 7) // 8
    written = np.full((len(percents), rows * row_bytes), 0xA5, np.uint8)

    def emit(_: str, offset: int, packed: np.ndarray) -> None:
        written[:, offset : offset + packed.shape[1]] = packed

    def source(_: str):
        return (bits[row : row + 3].reshape(-1) for row in range(0, rows, 3))

    allocated = None if counts is None else {"w": counts}
    select(Selection(source, {"w": bits.shape}, {"w": None}, percents, emit, allocated))
    unused_bits = row_bytes * 8 - cols
    assert not unused_bits or not (written.reshape(len(percents), rows, -1)[:, :, -1] >> (8 - unused_bits)).any()
    return np.stack([unpack(level.reshape(rows, -1), bits.shape) for level in written])


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["normal", "equal", "ties", "zeros"])
def test_layer_scope_is_a_stable_sort_of_all_weights(kind, shape, word):
    bits = weights_of(kind, shape, word)
    masks = masks_by(lambda selection: select_together(selection, ["w"]), bits)
    for percent, mask in zip(PERCENTS, masks, strict=True):
        np.testing.assert_array_equal(mask, reference(bits, percent))


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["normal", "equal", "ties", "zeros"])
def test_row_scope_is_a_stable_sort_of_every_row(kind, shape, word):
    bits = weights_of(kind, shape, word)
    masks = masks_by(lambda selection: select_rows(selection, "w"), bits)
    for percent, mask in zip(PERCENTS, masks, strict=True):
        np.testing.assert_array_equal(mask, np.stack([reference(row, percent) for row in bits]))


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("group", [2, 4, 5, 10, 16, 33, 64])
@pytest.mark.parametrize("kind", ["normal", "equal", "ties", "zeros"])
def test_group_scope_is_a_stable_sort_of_every_group(kind, group, word):
    bits = weights_of(kind, (7, 20 * group), word)
    percents = [percent for percent in range(100) if percent * group % 100 == 0]
    masks = masks_by(lambda selection: select_groups(selection, "w", group), bits, percents)
    for percent, mask in zip(percents, masks, strict=True):
        expected = np.stack([reference(part, percent) for part in bits.reshape(-1, group)])
        np.testing.assert_array_equal(mask.reshape(-1, group), expected)


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("kind", ["normal", "equal", "ties", "zeros"])
@pytest.mark.parametrize("shape", [(1, 300), (30, 5), (7, 130), (9, 4100)])
def test_an_allocated_count_is_reached_exactly_and_divided_among_the_rows(kind, shape, word):
    bits = weights_of(kind, shape, word)
    rows = shape[0]
    counts = np.array([0, 1, rows + 1, bits.size // 3, bits.size - 1, bits.size])
    levels = list(range(len(counts)))
    whole = masks_by(lambda selection: select_together(selection, ["w"]), bits, levels, counts)
    by_row = masks_by(lambda selection: select_rows(selection, "w"), bits, levels, counts)
    for count, mask, row_mask in zip(counts, whole, by_row, strict=True):
        np.testing.assert_array_equal(mask, sorted_mask(bits, count))
        shares = [count // rows + (row < count % rows) for row in range(rows)]
        expected = [sorted_mask(row, share) for row, share in zip(bits, shares, strict=True)]
        np.testing.assert_array_equal(row_mask, np.stack(expected))


def test_an_allocated_count_is_divided_evenly_among_the_groups():
    bits = weights_of("ties", (7, 80), np.uint16)
    counts = np.array([0, 3, 8]) * (bits.size // 8)
    masks = masks_by(lambda selection: select_groups(selection, "w", 8), bits, [0, 1, 2], counts)
    for number, mask in zip((0, 3, 8), masks, strict=True):
        expected = np.stack([sorted_mask(part, number) for part in bits.reshape(-1, 8)])
        np.testing.assert_array_equal(mask.reshape(-1, 8), expected)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=400),
    levels=st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True),
    distinct=st.integers(1, 1000),
)
def test_any_bits_are_counted_exactly_and_nested(values, levels, distinct):
    bits = (np.array([values], np.uint64) % np.uint64(distinct * 7919)).astype(np.uint32)
    masks = masks_by(lambda selection: select_together(selection, ["w"]), bits, sorted(levels))
    for percent, mask in zip(sorted(levels), masks, strict=True):
        np.testing.assert_array_equal(mask, reference(bits, percent))
    for less, more in pairwise(masks):
        assert not (more & ~less).any()


def test_a_case_by_hand():
    # |w| = 3 1 1 2: the two lowest are at places 1 and 2. If only one is pruned, it is the first of them.
    scores = np.array([3, 1, 1, 2], np.float32)
    written = {}
    selection = Selection(lambda _: iter([scores.view(np.uint32)]), {"w": (1, 4)}, {"w": "F32"}, [0, 25, 50],
                          lambda layer, _, packed: written.update({layer: packed}))  # fmt: skip
    select_together(selection, ["w"])
    assert written["w"].tolist() == [[0b1111], [0b1101], [0b1001]]


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_pruned_and_count_kept_agree_with_numpy(shape, word):
    bits = weights_of("zeros", shape, word)
    kept = np.random.default_rng(1).random(shape) < 0.5
    masked = bits.copy()
    zero_pruned(masked, pack(kept))
    np.testing.assert_array_equal(masked, np.where(kept, bits, 0))
    assert count_kept(pack(kept)) == kept.sum()
