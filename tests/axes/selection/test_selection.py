"""Compare the selection and its compiled loops with numpy, weight by weight: both word sizes, odd shapes, many ties."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseft.axes.selection.ranking import Ranking, by_group, by_layer, by_row
from sparseft.storage.bits import pack, unpack

PERCENTS = list(range(0, 100, 10))
KINDS = ["normal", "equal", "ties", "zeros"]
SHAPES = [(1, 1), (1, 300), (300, 1), (3, 17), (2, 66), (5, 64), (7, 130), (9, 4100)]


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


def sorted_mask(bits: np.ndarray, count: int) -> np.ndarray:
    """Return the mask that prunes `count` weights, by numpy's stable sort, bool in the shape of `bits`."""
    order = np.argsort((bits & (np.iinfo(bits.dtype).max >> 1)).ravel(), kind="stable")
    kept = np.ones(bits.size, bool)
    kept[order[:count]] = False
    return kept.reshape(bits.shape)


def check(
    select: Callable, bits: np.ndarray, scopes: np.ndarray, percents: list[int], counts: np.ndarray | None = None
):
    """Compare what `select` writes for one layer, in blocks of three rows, with a sort of each of the `scopes`, (n,
    size).

    counts: (levels, n), how many weights of each scope each level prunes, if `percents` do not say it. Return the
    masks, bool (levels, rows, cols)."""
    rows, cols = bits.shape
    allocated = None if counts is None else {"w": counts.sum(axis=1)}
    if counts is None:
        shares = [round(Fraction(percent * scopes.shape[1], 100)) for percent in percents]
        counts = np.tile(np.array(shares)[:, None], len(scopes))
    written = np.full((len(counts), rows * ((cols + 7) // 8)), 0xA5, np.uint8)

    def emit(_: str, offset: int, packed: np.ndarray) -> None:
        written[:, offset : offset + packed.shape[1]] = packed

    def source(_: str):
        return (bits[row : row + 3].reshape(-1) for row in range(0, rows, 3))

    select(Ranking(source, {"w": bits.shape}, {"w": None}, percents, emit, allocated))
    masks = np.stack([unpack(level.reshape(rows, -1), bits.shape) for level in written])
    # The unused bits of a row's last byte are 0.
    assert [pack(mask).tobytes() for mask in masks] == [level.tobytes() for level in written]
    for mask, of_level in zip(masks, counts, strict=True):
        expected = [sorted_mask(scope, count) for scope, count in zip(scopes, of_level, strict=True)]
        np.testing.assert_array_equal(mask, np.stack(expected).reshape(bits.shape))
    return masks


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_or_a_row_is_sorted_stably(kind, shape, word):
    bits = weights_of(kind, shape, word)
    check(by_layer, bits, bits.reshape(1, -1), PERCENTS)
    check(by_row, bits, bits, PERCENTS)


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("group", [2, 4, 5, 16, 33, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_is_sorted_stably(kind, group, word):
    bits = weights_of(kind, (7, 20 * group), word)
    scopes = bits.reshape(-1, group)
    percents = [percent for percent in range(100) if percent * group % 100 == 0]
    check(partial(by_group, group=group), bits, scopes, percents)


@pytest.mark.parametrize("word", [np.uint16, np.uint32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 300), (30, 5), (7, 136)])
def test_an_allocated_count_is_reached_exactly_and_divided_evenly(kind, shape, word):
    bits = weights_of(kind, shape, word)
    counts = np.array([0, 1, shape[0] + 1, bits.size // 3, bits.size - 1, bits.size])
    check(by_layer, bits, bits.reshape(1, -1), PERCENTS[:6], counts[:, None])
    shares = counts[:, None] // shape[0] + (np.arange(shape[0]) < counts[:, None] % shape[0])
    check(by_row, bits, bits, PERCENTS[:6], shares)
    if shape[1] % 8 == 0:
        scopes = bits.reshape(-1, 8)
        shares = np.tile([[0], [3], [8]], len(scopes))
        check(partial(by_group, group=8), bits, scopes, PERCENTS[:3], shares)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.integers(0, 2**32 - 1), min_size=100, max_size=100),
    levels=st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True),
    distinct=st.integers(1, 1000),
)
def test_any_bits_are_counted_exactly_and_nested(values, levels, distinct):
    bits = (np.array([values], np.uint64) % np.uint64(distinct * 7919)).astype(np.uint32)
    masks = check(by_layer, bits, bits, sorted(levels))
    for less, more in pairwise(masks):
        assert not (more & ~less).any()
