"""Masks against the definition: the first round(s n) weights of a stable ascending sort by |w|."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.pruning.mask_generator import compute_masks, select
from tiny_models import PRUNABLE_LAYERS, save_tiny

SPARSITIES = [0, 10, 30, 50, 70, 90]
METHODS = ["unstructured", "structured", "random"]


def reference(weight: torch.Tensor, percent: int) -> np.ndarray:
    """The mask by torch's own stable sort of |w| in fp32."""
    order = torch.sort(weight.float().abs().flatten(), stable=True).indices.numpy()
    kept = np.ones(weight.numel(), bool)
    kept[order[: round(Fraction(percent * weight.numel(), 100))]] = False
    return kept.reshape(weight.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_unstructured_masks_equal_a_stable_sort_by_magnitude(tmp_path, dtype):
    checkpoint = Checkpoint(save_tiny("llama", tmp_path / "m", dtype))
    weights = load_file(tmp_path / "m/model.safetensors")
    masks = compute_masks(checkpoint, "unstructured", SPARSITIES, seed=0)
    for percent, mask in masks.items():
        assert len(mask.shape) == PRUNABLE_LAYERS["llama"]
        for layer in mask.shape:
            np.testing.assert_array_equal(mask.kept(layer), reference(weights[f"{layer}.weight"], percent))


def test_a_case_by_hand():
    #  |w| = 3 1 1 2: the lowest two are places 1 and 2; of one, the first of the equal ones
    order = np.argsort(np.array([3, 1, 1, 2]), kind="stable")
    zero, quarter, half = select(order, [0, 25, 50])
    assert zero.tolist() == [True] * 4
    assert quarter.tolist() == [True, False, True, True]
    assert half.tolist() == [True, False, False, True]


@given(n=st.integers(1, 300), percents=st.lists(st.integers(0, 99), min_size=1, max_size=10, unique=True))
def test_counts_are_exact_and_masks_nested(n, percents):
    percents = sorted(percents)
    masks = select(np.random.default_rng(n).permutation(n), percents)
    assert [n - mask.sum() for mask in masks] == [round(Fraction(p * n, 100)) for p in percents]
    for less, more in pairwise(masks):
        assert not (more & ~less).any()


@pytest.mark.parametrize("method", METHODS)
def test_masks_of_a_model_are_nested_and_reach_what_they_say(tiny, method):
    masks = compute_masks(tiny, method, SPARSITIES, seed=0)
    for less, more in pairwise(masks.values()):
        assert all(not (more.bits[layer] & ~less.bits[layer]).any() for layer in more.bits)
    for percent, mask in masks.items():
        pruned = sum(int((~mask.kept(layer)).sum()) for layer in mask.shape)
        total = sum(rows * cols for rows, cols in mask.shape.values())
        assert mask.meta["reached"] == pytest.approx(pruned / total, abs=1e-12)
        if method != "structured":
            assert abs(pruned / total - percent / 100) < len(mask.shape) / total


def test_random_masks_depend_on_the_seed_alone(tiny_llama):
    first, again = (compute_masks(tiny_llama, "random", [50], seed=3)[50] for _ in range(2))
    other = compute_masks(tiny_llama, "random", [50], seed=4)[50]
    assert all((first.bits[layer] == again.bits[layer]).all() for layer in first.bits)
    assert all((first.bits[layer] != other.bits[layer]).any() for layer in first.bits)


def test_random_masks_are_the_same_on_every_machine():
    from sparseft.pruning.importance import random_order

    # made by random_order itself on x86-64, numpy 2.4: Philox and permutation are specified by numpy, not by the machine
    assert random_order("model.layers.0.mlp.up_proj", 8, seed=0).tolist() == [2, 3, 4, 7, 6, 5, 0, 1]


def test_structured_masks_remove_coupled_channels(tiny):
    mask = compute_masks(tiny, "structured", [50], seed=0)[50]
    width = tiny.config["hidden_size"] // tiny.config["num_attention_heads"]
    for layer in mask.shape:
        prefix, _, projection = layer.rpartition(".")
        kept = mask.kept(layer)
        if projection in ("gate_proj", "w1"):
            up, down = ("up_proj", "down_proj") if projection == "gate_proj" else ("w3", "w2")
            channels = kept.any(axis=1)
            assert channels.sum() == 24  # of 48
            np.testing.assert_array_equal(kept, np.broadcast_to(channels[:, None], kept.shape))
            np.testing.assert_array_equal(kept, mask.kept(f"{prefix}.{up}"))
            np.testing.assert_array_equal(kept, mask.kept(f"{prefix}.{down}").T)
        elif projection == "k_proj":
            heads = kept.any(axis=1).reshape(-1, width)
            assert heads.sum(axis=0).tolist() == [1] * width  # one of two key-value heads
            np.testing.assert_array_equal(kept, mask.kept(f"{prefix}.v_proj"))
            queries = np.repeat(heads, 2, axis=0).ravel()  # each serves two query heads
            np.testing.assert_array_equal(mask.kept(f"{prefix}.q_proj").any(axis=1), queries)
            np.testing.assert_array_equal(mask.kept(f"{prefix}.o_proj").any(axis=0), queries)


def test_structured_pruning_removes_the_channel_of_least_magnitude(tmp_path):
    file = save_tiny("llama", tmp_path / "m") / "model.safetensors"
    weights = load_file(file)
    for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        weights[f"model.layers.0.mlp.{name}.weight"].select(axis, 5).mul_(0.01)
    save_file(weights, file, metadata={"format": "pt"})
    mask = compute_masks(Checkpoint(tmp_path / "m"), "structured", [2], seed=0)[2]  # round(0.02 x 48) = 1
    assert np.flatnonzero(~mask.kept("model.layers.0.mlp.gate_proj").any(axis=1)).tolist() == [5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", ["unstructured", "structured"])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value, method):
    file = save_tiny("llama", tmp_path / "m") / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.self_attn.v_proj.weight"][3, 3] = value
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.self_attn\.v_proj\.weight holds NaN or infinity"):
        compute_masks(Checkpoint(tmp_path / "m"), method, [50], seed=0)


def test_dense_keeps_every_weight_and_has_no_other_sparsity(tiny):
    mask = compute_masks(tiny, "dense", [0], seed=0)[0]
    assert all(mask.kept(layer).all() for layer in mask.shape)
    with pytest.raises(InputError, match="keeps every weight"):
        compute_masks(tiny, "dense", [0, 30], seed=0)
