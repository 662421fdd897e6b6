"""Check that patterns of somebody else's own prune what they say."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from sparseft.architectures.architecture import Part
from sparseft.importances import WANDA
from sparseft.language_model.batches import Example
from sparseft.methods import METHODS, Method, get_method
from sparseft.patterns import Pattern
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.selection.units import by_unit

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
        by_unit(ranking, [[Part(layer, axis=axis, width=1, unit="")] for layer in ranking.shape])

    method = added(Method(Pattern("new", select, has_exact_counts=False), WANDA))
    calibration = ExampleCalibration(lambda checkpoint: EXAMPLES, {})
    mask = compute_masks(tiny_llama, method, [50], calibration, sequential=False)[50]
    for layer, norms in calibration.compute(tiny_llama, WANDA.statistic).items():
        sums = WANDA.score(read_float32(tiny_llama, f"{layer}.weight"), norms).sum(1 - axis, dtype=np.float64)
        expected = np.ones(len(sums), bool)
        expected[np.argsort(sums, kind="stable")[: len(sums) // 2]] = False
        assert (mask.kept(layer) == (expected if axis else expected[:, None])).all()
