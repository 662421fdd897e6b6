"""Check the scores of importances by hand, and against the expressions of their authors' code."""

import numpy as np
import pytest
import torch
from sparseft.importances import IMPORTANCES, Importance
from sparseft.importances.ria import RIA
from sparseft.importances.stade import STADE
from torch import Tensor

WEIGHTS = np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)
INPUTS = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
NORMS = np.random.default_rng(1).uniform(0.1, 3, size=32).astype(np.float32)


def test_ria_scores_as_the_published_code_does():
    W = torch.from_numpy(WEIGHTS)
    # Of lib/prune.py, prune_ria; scaler_row is the mean square of the inputs, and a is 0.5.
    scaler_row = torch.from_numpy(NORMS).square()
    shares = torch.abs(W) / torch.sum(torch.abs(W), dim=0) + torch.abs(W) / torch.sum(torch.abs(W), dim=1).reshape(
        -1, 1
    )
    expected = shares * (torch.sqrt(scaler_row.reshape((1, -1)))) ** 0.5
    column_sums = np.abs(WEIGHTS).sum(axis=0)
    np.testing.assert_allclose(RIA.score(WEIGHTS, NORMS, column_sums), expected.numpy(), rtol=1e-5)


def test_a_row_or_column_of_zeros_scores_zero_in_ria():
    weights = WEIGHTS.copy()
    weights[3] = 0
    weights[:, 5] = 0
    scores = RIA.score(weights, NORMS, np.abs(weights).sum(axis=0))
    assert not scores[3].any()
    assert not scores[:, 5].any()
    assert np.isfinite(scores).all()


def evidence(importance: Importance, examples: list[Tensor]) -> np.ndarray | None:
    """Return what an importance looks at after some examples, which are gradients or inputs; None if it looks at
    none."""
    statistic = importance.statistic
    if statistic is None:
        return None
    total = torch.zeros(statistic.shape(*WEIGHTS.shape), dtype=getattr(torch, statistic.dtype))
    for values in examples:
        statistic.add(total, values.clone())
    count = len(examples) if statistic.of_gradients else sum(map(len, examples))
    return statistic.finish(total, count).numpy()


SCORING = [importance for importance in IMPORTANCES if "weights" in importance.ranks and not importance.update]


@pytest.mark.parametrize("importance", SCORING, ids=lambda importance: importance.name)
def test_scores_are_finite_and_not_negative_and_keep_their_shape(importance):
    if importance.score is None:
        assert importance.statistic is None  # the bits of the weights
        return
    values = [INPUTS]
    if importance.statistic and importance.statistic.of_gradients:
        values = [torch.from_numpy(WEIGHTS), torch.ones(WEIGHTS.shape)]
    scores = importance.score(WEIGHTS, evidence(importance, values), np.abs(WEIGHTS).sum(axis=0))
    assert scores.shape == WEIGHTS.shape
    assert scores.dtype == np.float32
    assert (scores >= 0).all()
    assert np.isfinite(scores).all()
    words = importance.accumulated or (importance.statistic and importance.statistic.words)
    assert bool(words) == bool(importance.statistic)


def test_stade_is_the_magnitude_times_the_standard_deviation_over_all_tokens():
    """The inputs of two examples, one of which has a single token. A column is constant, and one has a large mean."""
    inputs = INPUTS.clone()
    inputs[:, 3] = 3
    inputs[:, 5] = 100 + INPUTS[:, 5] / 100
    deviations = inputs.double().std(dim=0, unbiased=False).numpy()
    found = evidence(STADE, [inputs[:1], inputs[1:]])
    np.testing.assert_allclose(found, deviations, rtol=1e-6)
    assert (found[3], found.shape) == (0, (32,))
    np.testing.assert_allclose(STADE.score(WEIGHTS, found, None), np.abs(WEIGHTS) * deviations, rtol=1e-6)
