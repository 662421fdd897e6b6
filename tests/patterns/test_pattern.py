"""Check that patterns of somebody else's own prune what they say."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from sparseft.architectures.architecture import Part
from sparseft.importances import DEFAULT, WANDA
from sparseft.language_model.batches import Example
from sparseft.methods import METHODS, Method, get_method
from sparseft.patterns import Pattern
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.selection.ranking import Ranking
from sparseft.selection.units import by_unit
from sparseft.storage.bits import pack, to_float32

from masks import compute_masks, read_float32

EXAMPLES = [Example([(7 * i + 11 * j) % 250 for i in range(40)], 1) for j in range(6)]


@pytest.fixture
def added(monkeypatch) -> Iterator[Callable[[Method], str]]:
    """Return a function that adds a method to the table, and returns its name."""

    def add(method: Method) -> str:
        monkeypatch.setitem(METHODS, method.name, method)
        return method.name

    yield add
    get_method.cache_clear()


@pytest.mark.parametrize("axis", [0, 1])
def test_whole_rows_and_whole_columns_go_by_the_sums_of_their_scores(axis, added, tiny_llama):
    def select(ranking) -> None:
        by_unit(ranking, [[Part(layer, axis=axis, width=1, unit="")] for layer in ranking.layers])

    method = added(Method(Pattern("new", select, has_exact_counts=False), WANDA))
    calibration = ExampleCalibration(lambda checkpoint: EXAMPLES, {})
    mask = compute_masks(tiny_llama, method, [50], calibration, sequential=False)[50]
    for layer, norms in calibration.evidence(tiny_llama, WANDA.statistic).items():
        sums = WANDA.score(read_float32(tiny_llama, f"{layer}.weight"), norms, None).sum(1 - axis, dtype=np.float64)
        expected = np.ones(len(sums), bool)
        expected[np.argsort(sums, kind="stable")[: len(sums) // 2]] = False
        assert (mask.kept(layer) == (expected if axis else expected[:, None])).all()


def tiles(ranking: Ranking) -> None:
    """Rank the tiles of 4 x 4 weights of each layer by the sums of their scores: a way of its own, in the pattern's
    file."""

    def select(layer: str) -> None:
        (rows, cols), dtype = ranking.shape[layer], ranking.dtypes[layer]
        scores = np.abs(to_float32(np.concatenate(list(ranking.source(layer))), dtype)).reshape(
            rows // 4, 4, cols // 4, 4
        )
        sums = scores.sum(axis=(1, 3), dtype=np.float64)
        ranks = np.argsort(np.argsort(sums, axis=None, kind="stable")).reshape(sums.shape)
        kept = [np.kron(ranks >= count, np.ones((4, 4), bool)).astype(bool) for count in ranking.counts(sums.size)]
        ranking.emit(layer, 0, np.stack([pack(of_level).reshape(-1) for of_level in kept]))

    ranking.in_threads(select, ranking.layers)


def test_a_pattern_may_have_a_way_of_selection_of_its_own(added, tiny_llama):
    method = added(Method(Pattern("tiles", tiles, scope="layer", has_exact_counts=False), DEFAULT))
    mask = compute_masks(tiny_llama, method, [50], threads=2)[50]
    for layer, (rows, cols) in mask.shape.items():
        of_tiles = mask.kept(layer).reshape(rows // 4, 4, cols // 4, 4).sum(axis=(1, 3))
        assert set(np.unique(of_tiles)) == {0, 16}
        assert (of_tiles == 0).sum() == round(of_tiles.size / 2)
        sums = np.abs(read_float32(tiny_llama, f"{layer}.weight")).reshape(rows // 4, 4, cols // 4, 4).sum((1, 3))
        assert sums[of_tiles == 0].max() <= sums[of_tiles == 16].min() * (1 + 1e-6)
