"""Check the scores of importances against the expressions of their authors' code."""

import numpy as np
import torch
from sparseft.axes.importances.ria import RIA
from sparseft.axes.importances.stade import INPUT_DEVIATIONS, STADE

WEIGHTS = np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)
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


def test_stade_is_the_magnitude_times_the_standard_deviation_over_all_tokens():
    """The inputs of two examples, one of which has a single token. A column is constant, and one has a large mean."""
    inputs = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    inputs[:, 3] = 3
    inputs[:, 5] = 100 + inputs[:, 5] / 100
    deviations = inputs.double().std(dim=0, unbiased=False).numpy()
    sums = torch.zeros(INPUT_DEVIATIONS.shape(*WEIGHTS.shape), dtype=getattr(torch, INPUT_DEVIATIONS.dtype))
    for of_example in (inputs[:1], inputs[1:]):
        INPUT_DEVIATIONS.add(sums, of_example)
    found = INPUT_DEVIATIONS.finish(sums, len(inputs)).numpy()
    np.testing.assert_allclose(found, deviations, rtol=1e-6)
    assert (found[3], found.shape) == (0, (32,))
    np.testing.assert_allclose(STADE.score(WEIGHTS, found), np.abs(WEIGHTS) * deviations, rtol=1e-6)


def test_a_variance_that_rounding_leaves_below_zero_is_zero_in_stade():
    inputs = torch.rand(32, generator=torch.Generator().manual_seed(0)).expand(20, 32)
    sums = torch.zeros(2, 32, dtype=torch.float64)
    INPUT_DEVIATIONS.add(sums, inputs)
    assert (sums[1] / 20 < (sums[0] / 20).square()).any()
    np.testing.assert_allclose(INPUT_DEVIATIONS.finish(sums, 20).numpy(), np.zeros(32), atol=1e-6)
