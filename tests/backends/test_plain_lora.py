"""The plain form of the LoRA layers against the one that trains on CPUs and GPUs."""

import pytest
import torch
from sparseft.backends.fixed_shapes import plain_kind_of
from sparseft.lora.effective_weight import Workspace
from sparseft.lora.masked_lora import kind_of
from sparseft.study.schedule import Training

SHAPE = (6, 8)
MASKS = {
    "ones": torch.ones(SHAPE, dtype=torch.bool),
    "unstructured": torch.arange(48).view(SHAPE) % 3 > 0,
    "structured": (torch.arange(6) % 2 > 0)[:, None] & (torch.arange(8) > 2),
}


def outcome(kind, mask: torch.Tensor, settings: Training, dtype: torch.dtype, *, has_bias: bool) -> list[torch.Tensor]:
    """Return y, and the gradients of x, A and B, of a layer drawn from one seed whose B is no longer 0."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    layer = kind(torch.nn.Linear(8, 6, bias=has_bias, dtype=dtype), mask, settings, Workspace())
    layer.lora_B.data.normal_(generator=generator)
    x = torch.randn(2, 5, 8, generator=generator).to(dtype).requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=generator).to(dtype))
    return [y, x.grad, layer.lora_A.grad, layer.lora_B.grad]


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_forward_and_gradients_are_those_of_the_other_form(mask, mode, gradient, dtype, tolerance, has_bias):
    settings = Training(lora_r=3, lora_alpha=6.0, gradient=gradient)
    kept = MASKS[mask]
    pairs = [
        outcome(choose(mode, kept), kept, settings, dtype, has_bias=has_bias) for choose in (plain_kind_of, kind_of)
    ]
    for plain, other in zip(*pairs, strict=True):
        torch.testing.assert_close(plain, other, rtol=tolerance, atol=10 * tolerance)


def test_the_effective_weight_is_exactly_zero_where_the_mask_is(mask=MASKS["unstructured"]):
    for gradient in ("exact", "straight_through"):
        settings = Training(lora_r=3, gradient=gradient)
        layer = plain_kind_of("sparse_to_sparse", mask)(torch.nn.Linear(8, 6, bias=False), mask, settings, Workspace())
        layer.lora_B.data.normal_()
        assert torch.equal((layer(torch.eye(8)).T != 0), mask)
