"""SparseGPT on one layer, beside the paper's algorithm with an inverse of every remaining set of columns."""

from fractions import Fraction

import pytest
import torch
from sparseft.common.errors import InputError
from sparseft.pruning.hessian import output_error
from sparseft.pruning.sparsegpt import prune_layer
from torch import Tensor

ROWS, COLS, TOKENS = 24, 40, 200
DAMPING = 0.01


def layer() -> tuple[Tensor, Tensor]:
    """Return weights (rows, cols) and the Hessian of inputs that depend on each other, both fp64."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(COLS, COLS, generator=generator, dtype=torch.float64)
    inputs = torch.randn(TOKENS, COLS, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(ROWS, COLS, generator=generator, dtype=torch.float64), inputs.T @ inputs


def dense_algebra(weights: Tensor, hessian: Tensor, count: int, block: int, group: int | None = None) -> tuple:
    """Return the mask and the weights: section 3 of arXiv 2301.00774, with an inverse per column and no
    factorisation."""
    weights = weights.clone()
    rows, cols = weights.shape
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(cols, dtype=hessian.dtype)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(cols)]
    costs = torch.stack([inverse[0, 0] for inverse in inverses])
    kept = torch.ones(rows, cols, dtype=torch.bool)
    for j in range(cols):
        if group and j % group == 0:
            for row in range(rows):
                scores = weights[row, j : j + group] ** 2 / costs[j : j + group]
                kept[row, j + scores.argsort()[: count * group // (rows * cols)]] = False
        if not group and j % block == 0:
            end = min(j + block, cols)
            number = round(Fraction(count * end, cols)) - round(Fraction(count * j, cols))
            scores = weights[:, j:end] ** 2 / costs[j:end]
            lowest = scores.flatten().argsort()[:number]
            kept[lowest // (end - j), j + lowest % (end - j)] = False
        for row in range(rows):
            if not kept[row, j]:
                weights[row, j:] -= weights[row, j] / costs[j] * inverses[j][0]
                weights[row, j] = 0
    return kept, weights


CASES = [(50, 8, None), (70, 16, None), (30, 40, None), (60, 7, None), (95, 13, None)]
CASES += [(50, 8, 4), (25, 8, 4), (50, 16, 8), (60, 10, 5)]


@pytest.mark.parametrize(("percent", "block", "group"), CASES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_mask_and_weights_are_those_of_dense_algebra(percent, block, group, dtype, error):
    weights, hessian = layer()
    count = round(Fraction(percent * weights.numel(), 100))
    kept, expected = dense_algebra(weights, hessian, count, block, group)
    options = {"block": block, "damping": DAMPING, "group": group}
    pruned = prune_layer("layer", weights.to(dtype), hessian.to(dtype), count, **options)
    assert torch.equal(pruned.kept, kept)
    assert (pruned.weights - expected).norm() < error * expected.norm()
    assert pruned.damping == DAMPING


def test_equal_scores_are_pruned_from_the_lowest_index():
    pruned = prune_layer("layer", torch.ones(2, 4), torch.eye(4), 3, block=4, damping=DAMPING)
    assert pruned.kept.tolist() == [[False, False, False, True], [True, True, True, True]]


def test_the_output_error_is_that_of_the_outputs():
    weights, _ = layer()
    inputs = torch.randn(TOKENS, COLS, dtype=torch.float64)
    other = weights + 0.1 * torch.randn_like(weights)
    expected = (inputs @ (weights - other).T).square().sum() / (inputs @ weights.T).square().sum()
    assert output_error(weights, other, inputs.T @ inputs) == pytest.approx(float(expected), rel=1e-9)
    assert output_error(0 * weights, 0 * weights, inputs.T @ inputs) == 0


def test_an_input_that_is_always_zero_loses_its_weights_and_changes_nothing_else():
    weights, hessian = layer()
    dead = [3, 17]
    hessian[dead] = 0
    hessian[:, dead] = 0
    alive = [column for column in range(COLS) if column not in dead]
    pruned = prune_layer("layer", weights, hessian, 480, block=COLS, damping=DAMPING)
    assert not pruned.weights[:, dead].any() and not pruned.kept[:, dead].any()
    # As if the columns were not there.
    part, count = hessian[alive][:, alive], 480 - 2 * ROWS
    smaller = prune_layer("layer", weights[:, alive], part, count, block=COLS, damping=DAMPING)
    assert torch.equal(pruned.kept[:, alive], smaller.kept)
    torch.testing.assert_close(pruned.weights[:, alive], smaller.weights, rtol=1e-9, atol=1e-9)


def test_a_hessian_that_is_not_positive_definite_is_damped_more_and_said(capsys):
    weights, hessian = layer()
    values, vectors = torch.linalg.eigh(hessian)
    values[0] = -0.05 * values.mean()
    indefinite = vectors @ values.diag() @ vectors.T
    pruned = prune_layer("layer", weights, indefinite, 480, block=8, damping=DAMPING)
    assert pruned.damping == 0.1
    said = capsys.readouterr().err
    assert said == "layer: its Hessian is not positive definite with a damping of 0.01; trying 0.1\n"
    assert int((~pruned.kept).sum()) == 480 and pruned.weights.isfinite().all()
    again = prune_layer("layer", weights, indefinite, 480, block=8, damping=0.1)
    assert torch.equal(again.weights, pruned.weights)


@pytest.mark.parametrize(("factor", "spike"), [(1, 1e9), (0, 0)])
def test_a_hessian_that_no_damping_helps_is_refused(factor, spike):
    """Use a Hessian of zeros, which a layer has if no token reaches it."""
    weights, hessian = layer()
    hessian = factor * hessian
    hessian[1, 0] = hessian[0, 1] = spike
    fault = "layer: its Hessian is not positive definite with a damping of 100;"
    with pytest.raises(InputError, match=fault):
        prune_layer("layer", weights, hessian, 480, block=8, damping=DAMPING)
