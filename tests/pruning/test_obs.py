"""Compare removed units with least squares in fp64, with the published expression, and with stock transformers."""

import pytest
import torch
from safetensors.torch import load_file
from sparseft.axes.architectures.architecture import KEY_VALUE_HEADS
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.hessian import output_error
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.masks.validation import validate
from sparseft.pruning.obs import choose_units, prune_units, refit
from test_weight_updates import CALIBRATION, decoder_layers, output_errors
from tiny_models import TYPICAL, save_tiny

from masks import compute_masks, coupled_parts, pass_of

ROWS, COLS, TOKENS = 8, 24, 60


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (rows, cols) and correlated inputs (tokens, cols), fp64."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(COLS, COLS, generator=generator, dtype=torch.float64)
    inputs = torch.randn(TOKENS, COLS, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(ROWS, COLS, generator=generator, dtype=torch.float64), inputs


def least_squares(weights: torch.Tensor, inputs: torch.Tensor, kept: torch.Tensor, damping: float = 0) -> torch.Tensor:
    """Return the weights that minimise ||X (W - W')^T||^2 + d ||W - W'||^2 with W' = 0 outside of `kept`, by torch's
    solver."""
    scale = damping * inputs.square().sum(0).mean()
    rows = torch.cat([inputs, scale.sqrt() * torch.eye(inputs.shape[1], dtype=inputs.dtype)])
    new = torch.zeros_like(weights)
    new[:, kept] = torch.linalg.lstsq(rows[:, kept], rows @ weights.T).solution.T
    return new


@pytest.mark.parametrize("damping", [1e-9, 0.1])
def test_the_refit_is_the_least_squares_solution_of_the_kept_columns(problem, damping):
    weights, inputs = problem
    kept = torch.arange(COLS) % 3 > 0
    new = refit("layer", weights, inputs.T @ inputs, kept, damping)
    torch.testing.assert_close(new.weights, least_squares(weights, inputs, kept, damping), rtol=1e-7, atol=1e-7)
    assert torch.equal(new.kept, kept.expand(ROWS, COLS))


@pytest.mark.parametrize("width", [1, 3])
def test_one_unit_a_round_is_the_greedy_choice_by_least_squares(problem, width):
    """Each round removes the unit without which the outputs can be kept best, found by trying all of them."""
    weights, inputs = problem
    left = list(range(COLS // width))
    for _ in range(3):

        def error(unit: int) -> float:
            units = torch.tensor([other in left and other != unit for other in range(COLS // width)])
            new = least_squares(weights, inputs, units.repeat_interleave(width))
            return float((inputs @ (weights - new).T).square().sum())

        left.remove(min(left, key=error))
    inverted = torch.linalg.inv(inputs.T @ inputs)
    kept = choose_units(weights, inverted, width, 3, rounds=3)
    assert kept.nonzero()[:, 0].tolist() == left


@pytest.mark.parametrize("rounds", [1, 4, 100])
def test_any_number_of_rounds_removes_the_count_and_ties_go_to_the_lowest_unit(rounds):
    kept = choose_units(torch.ones(2, 10), torch.eye(10), 1, 6, rounds)
    assert kept.tolist() == [False] * 6 + [True] * 4


@pytest.mark.parametrize("head_share", [0, 1])
@pytest.mark.parametrize("name", TYPICAL)
def test_each_block_is_pruned_on_the_inputs_that_the_pruned_blocks_before_it_give(name, head_share, tmp_path, places):
    checkpoint = Checkpoint(save_tiny(name, tmp_path / "model", torch.float32))
    prune_units(pass_of(checkpoint, "structured_obs", [50], places, Masks(head_share=head_share), CALIBRATION))
    base, mask = Checkpoint(places.base), read_mask(places.masks[0])
    assert validate(base, mask, base=base)["passed"]
    errors, groups = output_errors(places), coupled_parts(checkpoint)
    for layers in decoder_layers(checkpoint, base):
        for parts in (parts for parts in groups if parts[0].layer in layers):
            for part in (part for part in parts if part.axis == 0):
                before, after, _ = layers[part.layer]
                assert torch.equal(after, before.float() * torch.from_numpy(mask.kept(part.layer))), part.layer
            last = parts[-1].layer
            before, after, hessian = layers[last]
            if parts[0].unit == KEY_VALUE_HEADS and not head_share:
                assert torch.equal(before.float(), after)
                continue
            expected = refit(last, before, hessian, torch.from_numpy(mask.kept(last).all(axis=0)), 0.01).weights
            assert (after - expected).norm() < 1e-3 * expected.norm(), last
            assert errors[last] == pytest.approx(output_error(before, after.double(), hessian), rel=1e-2), last


@pytest.mark.parametrize("importance", ["", "_wanda", "_random"])
def test_a_refit_has_the_mask_of_its_importance_and_the_same_rows(importance, tmp_path, places):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path / "model", torch.float32))
    calibration = CALIBRATION if importance == "_wanda" else None
    mask = compute_masks(checkpoint, f"structured{importance}", [50], calibration)[50]
    prune_units(pass_of(checkpoint, f"structured{importance}_refit", [50], places, calibration=CALIBRATION))
    refitted = read_mask(places.masks[0])
    assert all((mask.bits[layer] == refitted.bits[layer]).all() for layer in mask.shape)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint.folder, places.base))
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name] * (weight != 0))}
    assert changed == {f"model.layers.{number}.mlp.down_proj.weight" for number in range(2)}
