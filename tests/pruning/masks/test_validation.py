"""The proof of sparsity: what passes, what fails, and what the report says."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.masks.mask_file import Mask
from sparseft.pruning.masks.validation import validate
from sparseft.training.lora.merge import merge
from tiny_models import PRUNABLE_LAYERS, edited, save_tiny

from masks import compute_masks

LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture
def mask(tiny_llama) -> Mask:
    return compute_masks(tiny_llama, "unstructured", [50], seed=0)[50]


@pytest.fixture
def pruned(tmp_path, tiny_llama, mask) -> Checkpoint:
    merge(tiny_llama, mask, "m", None, tmp_path / "pruned")
    return Checkpoint(tmp_path / "pruned")


def put(checkpoint: Checkpoint, kept: np.ndarray, values: list[float], name: str = LAYER) -> Checkpoint:
    """Write `values` over the first weights of a layer at which `kept` is true."""
    with edited(checkpoint.folder) as weights:
        weight = weights[f"{name}.weight"]
        places = torch.from_numpy(np.argwhere(kept)[: len(values)])
        weight[places[:, 0], places[:, 1]] = torch.tensor(values, dtype=weight.dtype)
    return Checkpoint(checkpoint.folder)


@pytest.mark.parametrize("method", ["unstructured", "structured", "random", "dense"])
def test_a_pruned_model_passes_and_its_report_counts_every_weight(tmp_path, tiny, method):
    percent = 0 if method == "dense" else 50
    mask = compute_masks(tiny, method, [percent], seed=0)[percent]
    merge(tiny, mask, "m", None, tmp_path / "pruned")
    report = validate(Checkpoint(tmp_path / "pruned"), mask, base=tiny)
    assert (report["passed"], report["not_checked"], report["max_abs_pruned"]) == (True, [], 0.0)
    assert report["sparsity_within_tolerance"] == report["actual_sparsity"]
    assert report["layers_checked"] == report["layers_expected"] == PRUNABLE_LAYERS[tiny.folder.name]
    assert (report["violations"], report["max_abs_violation"], report["layers_not_checked"]) == (0, 0.0, [])
    assert report["expected_sparsity"] == pytest.approx(mask.meta["reached"], abs=1e-12)
    weights = load_file(tmp_path / "pruned/model.safetensors")
    zeros = {layer: int((weights[f"{layer}.weight"] == 0).sum()) for layer in mask.shape}
    assert {row["layer"]: row["zeros"] for row in report["layers"]} == zeros
    assert report["actual_sparsity"] == sum(zeros.values()) / sum(row["weights"] for row in report["layers"])
    assert report["tensors_outside_checked"] == len(tiny.tensors) - len(mask.shape)
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_one_pruned_weight_of_the_smallest_size_fails_and_its_layer_is_named(tmp_path, dtype):
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    base = Checkpoint(save_tiny("llama", tmp_path / "base", dtype))
    mask = compute_masks(base, "unstructured", [50], seed=0)[50]
    merge(base, mask, "m", None, tmp_path / "pruned")
    report = validate(put(Checkpoint(tmp_path / "pruned"), ~mask.kept(LAYER), [-smallest]), mask)
    assert (report["passed"], report["violations"], report["layers_checked"]) == (False, 1, 14)
    assert [row["layer"] for row in report["layers"] if row["violations"]] == [LAYER]
    assert report["max_abs_violation"] == smallest


@pytest.mark.parametrize(("exponent", "violations"), [(-21, 3), (-20, 1), (-19, 0)])
def test_the_tolerance_is_the_largest_size_that_passes_and_what_passes_is_no_zero(
    pruned, mask, tiny_llama, exponent, violations
):
    altered = put(pruned, ~mask.kept(LAYER), [2**-20, -(2**-20), 2**-19])
    report = validate(altered, mask, tolerance=2**exponent, base=tiny_llama)
    weights = sum(row["weights"] for row in report["layers"])
    (row,) = [row for row in report["layers"] if row["layer"] == LAYER]
    assert (report["passed"], report["violations"]) == (not violations, violations)
    assert report["max_abs_violation"] == (2**-19 if violations else 0.0)
    assert report["max_abs_pruned"] == row["max_abs_pruned"] == 2**-19
    assert row["within_tolerance"] == 3 - violations
    expected = report["expected_sparsity"]
    assert report["sparsity_within_tolerance"] == pytest.approx(expected - violations / weights, abs=1e-12)
    assert report["actual_sparsity"] == pytest.approx(expected - 3 / weights, abs=1e-12)
    assert bool(report["not_checked"]) == (violations < 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_a_violation_at_any_tolerance(pruned, mask, value):
    report = validate(put(pruned, ~mask.kept(LAYER), [value]), mask, tolerance=1e30)
    assert (report["passed"], report["violations"]) == (False, 1)
    assert report["max_abs_violation"] == sys.float_info.max  # JSON has no infinity
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(("is_kept", "zeros"), [(True, 3), (False, 0)])
def test_a_zero_of_any_sign_is_no_violation_and_one_among_the_kept_is_counted_apart(pruned, mask, is_kept, zeros):
    report = validate(put(pruned, mask.kept(LAYER) == is_kept, [0.0, -0.0, 0.0]), mask)
    (row,) = [row for row in report["layers"] if row["layer"] == LAYER]
    assert (report["passed"], report["violations"], row["within_tolerance"]) == (True, 0, 0)
    assert row["kept_zeros"] == row["zeros"] - row["pruned"] == zeros
    assert (report["actual_sparsity"] > report["expected_sparsity"]) == is_kept


# What a mask has instead of the layers of the model -> how many layers are checked, and how many are not.
UNMATCHED = {
    "a layer less": (lambda shape: {layer: size for layer, size in shape.items() if layer != LAYER}, 13, 1),
    "another shape": (lambda shape: shape | {LAYER: (48, 31)}, 13, 1),
    "a layer more": (lambda shape: shape | {LAYER + "s": (48, 31)}, 14, 1),
    "no common layer": (lambda shape: {f"{LAYER}/{layer}": size for layer, size in shape.items()}, 0, 28),
}


@pytest.mark.parametrize("case", UNMATCHED)
def test_a_layer_that_model_and_mask_do_not_share_fails(pruned, mask, case):
    change, checked, others = UNMATCHED[case]
    report = validate(pruned, replace(mask, shape=change(mask.shape)))
    assert (report["passed"], report["violations"], report["layers_expected"]) == (False, 0, 14)
    assert (report["layers_checked"], len(report["layers_not_checked"])) == (checked, others)
    assert any(LAYER in layer for layer in report["layers_not_checked"])
    assert (report["expected_sparsity"] is None) == (report["actual_sparsity"] is None) == (not checked)


def test_the_mask_of_another_base_proves_nothing_although_its_weights_are_zero(tiny_llama, pruned, mask):
    assert validate(pruned, mask, base=tiny_llama)["mask_of_base"] is True
    report = validate(pruned, replace(mask, meta=mask.meta | {"base": "another"}), base=tiny_llama)
    assert (report["passed"], report["mask_of_base"], report["violations"]) == (False, False, 0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.embed_tokens.weight", lambda W: W + 1),
        ("model.embed_tokens.weight", lambda W: W.view(32, 260)),
        ("model.norm.weight", lambda W: W.view(torch.float16)),
        ("model.norm.weight", lambda W: None),
        ("extra", lambda _: torch.ones(1)),
        (f"{LAYER}.weight", lambda W: W.view(torch.float16)),
    ],
)
def test_a_tensor_that_differs_from_the_base_s_is_named(tiny_llama, pruned, mask, name, change):
    with edited(pruned.folder) as weights:
        new = change(weights.pop(name, None))
        weights |= {} if new is None else {name: new}
    altered = Checkpoint(pruned.folder)
    assert validate(altered, mask)["passed"]  # nothing to compare with
    report = validate(altered, mask, base=tiny_llama)
    assert (report["passed"], report["violations"], report["tensors_outside_changed"]) == (False, 0, [name])


def test_a_base_with_another_configuration_is_refused(tiny_models, pruned, mask):
    with pytest.raises(InputError, match=r"config\.json"):
        validate(pruned, mask, base=Checkpoint(tiny_models["mistral"]))
