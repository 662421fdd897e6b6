"""OWL: counts beside brute force and the published formula, and outliers beside stock transformers."""

from fractions import Fraction
from itertools import groupby, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import decoder_layer_of, prunable_layers
from sparseft.pruning.allocation import allocate, slots_pruned
from sparseft.pruning.calibration_examples import calibration_examples
from sparseft.pruning.masks.mask_file import Mask, read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.sparsegpt import prune_weights
from tiny_models import TYPICAL, edited, save_tiny, stock

from masks import NUMBER, ROWS, TASK, inputs_of, pass_of, read_float32

TEN = list(range(0, 100, 10))
# The weights of a tiny model are normal, so few scores are far above their mean.
SETTINGS = {"owl_m": 2.0, "owl_lambda": 0.15}


@pytest.fixture
def uneven(tmp_path) -> Checkpoint:
    """A tiny model of 5 decoder layers, each with another share of outliers. Its rows divide into groups of 8."""
    sizes = {"hidden_size": 40, "intermediate_size": 64, "head_dim": 10, "num_hidden_layers": 5}
    folder = save_tiny("llama", tmp_path / "uneven", torch.float32, sizes)
    with edited(folder) as weights:
        for name, weight in weights.items():
            if ".layers." in name and weight.ndim == 2:
                # A power of the normal weights, so that the distributions have different tails.
                weights[name] = weight.sign() * weight.abs() ** (1 + decoder_layer_of(name) / 4)
    return Checkpoint(folder)


def pruned_counts(mask: Mask) -> dict[str, int]:
    return {layer: int((~mask.kept(layer)).sum()) for layer in mask.shape}


def published_keeps(shares: list[float], percent: int, spread: float) -> np.ndarray:
    """The lines of prune_wanda_outlier: the share that each decoder layer keeps."""
    ratio = np.array(shares)
    ratio = (ratio - ratio.min()) * (1 / (ratio.max() - ratio.min()) * spread * 2)
    return ratio - np.mean(ratio) + (1 - percent / 100)


@torch.no_grad()
def published_shares(checkpoint: Checkpoint, multiple: float) -> list[float]:
    """The outliers in percent by decoder layer, of what stock transformers computes, as WrappedGPT and
    check_outlier_mean."""
    examples = calibration_examples(checkpoint, TASK, ROWS, NUMBER, 0)
    inputs = inputs_of(stock(checkpoint.folder), prunable_layers(checkpoint), examples)
    shares = []
    for _, layers in groupby(inputs, decoder_layer_of):
        scores = []
        for layer in layers:
            scaler_row = inputs[layer].norm(p=2, dim=0) ** 2 / NUMBER
            weight = torch.from_numpy(read_float32(checkpoint, f"{layer}.weight"))
            scores.append((weight.abs() * scaler_row.sqrt()).float().flatten())
        scores = torch.cat(scores)
        shares.append(float((scores > torch.mean(scores) * multiple).sum()) / scores.numel() * 100)
    return shares


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_slots_are_those_with_the_smallest_keys(data):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    some = st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(0.15), Fraction(2)])
    shifts = data.draw(st.lists(some, min_size=len(sizes), max_size=len(sizes)))
    percents = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=5))
    slots = sorted(
        (Fraction(2 * k + 1, 2 * size) + shift, part)
        for part, (size, shift) in enumerate(zip(sizes, shifts, strict=True))
        for k in range(size)
    )
    for percent, counts in zip(percents, slots_pruned(sizes, shifts, percents).T, strict=True):
        chosen = [part for _, part in slots[: round(Fraction(percent * len(slots), 100))]]
        assert counts.tolist() == [chosen.count(part) for part in range(len(sizes))]


@pytest.mark.parametrize(
    ("shares", "percents", "spread", "group", "expected"),
    [
        ([0.3, 0.3, 0.3], [10, 40], 0.5, None, [[100, 400]] * 3),
        # d is 0, 0.5 and 1: at 10 % only the first layer is pruned, and the last one keeps every weight at 40 % too.
        ([0.0, 0.1, 0.2], [10, 40], 0.5, None, [[300, 850], [0, 350], [0, 0]]),
        # The keys of a decoder layer are 1/16, 3/16 ... plus 0, 1/4 and 1/2. Half of 24 are below 3/4.
        ([0.0, 0.1, 0.2], [50], 0.25, 8, [[6 * 125], [4 * 125], [2 * 125]]),
    ],
)
def test_layers_take_over_what_others_cannot_prune(shares, percents, spread, group, expected):
    shape = {f"model.layers.{block}.q_proj": (10, 100) for block in range(3)}
    counts = allocate(shares, shape, percents, Masks(owl_lambda=spread), group)
    assert [count.tolist() for count in counts.values()] == expected


@pytest.mark.parametrize(("percent", "spread", "group"), [(75, 0.4, 8), (90, 0.15, None)])
def test_a_layer_that_would_lose_every_weight_is_refused(percent, spread, group):
    shape = {f"model.layers.{block}.mlp.up_proj": (8, 8) for block in range(3)}
    words = rf"^masks\.owl_lambda {spread} prunes 100 % of model\.layers\.1\.mlp\.up_proj at .* {percent} %; "
    with pytest.raises(InputError, match=words):
        allocate([0.2, 0.0, 0.1], shape, [0, percent], Masks(owl_lambda=spread), group)


@pytest.mark.parametrize("name", TYPICAL)
def test_outliers_and_counts_are_those_of_the_published_code_on_stock_transformers(tmp_path, computed, name):
    checkpoint = Checkpoint(save_tiny(name, tmp_path / name, torch.float32))
    masks = computed(checkpoint, "unstructured_owl", [50, 70], **SETTINGS)
    shares = published_shares(checkpoint, SETTINGS["owl_m"])
    assert len(set(shares)) > 1
    assert [100 * share for share in masks[50].meta["outliers"]] == pytest.approx(shares, abs=1e-9)
    smallest = min(rows * cols for rows, cols in masks[50].shape.values())
    for percent, mask in masks.items():
        keeps = published_keeps(shares, percent, SETTINGS["owl_lambda"])
        for layer, pruned in pruned_counts(mask).items():
            size = mask.shape[layer][0] * mask.shape[layer][1]
            expected = (1 - keeps[decoder_layer_of(layer)]) * size
            assert pruned == pytest.approx(expected, abs=0.5 + 0.5 * size / smallest)


@pytest.mark.parametrize(
    ("method", "percents", "changes"),
    [
        # Above the last sparsity a layer would lose every weight.
        ("unstructured_owl", TEN[:8], {}),
        ("unstructured_owl", TEN[:8], {"scope": "row"}),
        ("unstructured_taylor_owl", TEN[:8], {}),
        ("unstructured_wanda_owl", TEN[:8], {"sequential": False}),
        ("unstructured_ria_owl", TEN[:8], {"sequential": False}),
        ("semistructured8_owl", [0, 25, 50], {}),
        ("semistructured8_wanda_owl", [0, 25, 50], {"sequential": False}),
    ],
)
def test_the_count_is_exact_at_every_sparsity_and_levels_are_nested(uneven, computed, method, percents, changes):
    masks = computed(uneven, method, percents, **SETTINGS, **changes)
    total = sum(rows * cols for rows, cols in masks[0].shape.values())
    for percent, mask in masks.items():
        assert sum(pruned_counts(mask).values()) == round(Fraction(percent * total, 100))
    for less, more in pairwise(masks.values()):
        assert all(not (more.bits[layer] & ~less.bits[layer]).any() for layer in more.bits)
    half = masks[50]
    outliers = {layer: half.meta["outliers"][decoder_layer_of(layer)] for layer in half.shape}
    by_outliers = sorted(half.shape, key=outliers.get)
    few, many = (pruned_counts(half)[layer] / np.prod(half.shape[layer]) for layer in (by_outliers[0], by_outliers[-1]))
    assert 0.15 < few - many < 0.4  # 2 lambda is 0.3


@pytest.mark.parametrize(
    ("method", "percents"), [("unstructured_wanda_owl", [0, 50, 75]), ("semistructured8_wanda_owl", [0, 25, 50])]
)
def test_a_sequential_importance_has_the_counts_of_the_dense_model(uneven, computed, method, percents):
    masks, dense = (computed(uneven, method, percents, **SETTINGS, sequential=flag) for flag in (True, False))
    assert masks[50].meta["outliers"] == dense[50].meta["outliers"]
    for percent in percents:
        assert pruned_counts(masks[percent]) == pruned_counts(dense[percent])
    assert any((masks[50].bits[layer] != dense[50].bits[layer]).any() for layer in masks[50].bits)


@pytest.mark.parametrize("method", ["unstructured_sparsegpt_owl", "semistructured8_sparsegpt_owl"])
def test_sparsegpt_prunes_the_counts_of_the_dense_model(uneven, computed, calibration_of, places, method):
    options = Masks(**SETTINGS, sparsegpt_block=24)
    prune_weights(pass_of(uneven, method, [50], places, options, calibration_of(method, **SETTINGS)))
    mask = read_mask(places.masks[0])
    expected = computed(uneven, method.replace("_sparsegpt", ""), [50], **SETTINGS)[50]
    assert mask.meta["outliers"] == expected.meta["outliers"]
    assert (mask.meta["owl_lambda"], mask.meta["reached"]) == (0.15, 0.5)
    assert pruned_counts(mask) == pruned_counts(expected)
