"""The products of a CPU that does not support 16 bits."""

import pytest
import torch
from sparseft.language_model import products
from sparseft.language_model.products import Linear, is_widened, linear, multiply

EPSILON = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.fixture
def slow(monkeypatch) -> None:
    """Let the processor be one that does not support bf16."""
    monkeypatch.setattr(products, "is_slow", lambda dtype: dtype in EPSILON)


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("tokens", [50, 0])
@pytest.mark.parametrize("block", [16, 4096])
def test_a_product_in_fp32_is_rounded_once(slow, dtype, tokens, block, monkeypatch):
    monkeypatch.setattr(products, "BLOCK", block)
    dY, X = (torch.randn((tokens, size), generator=torch.Generator().manual_seed(size)).to(dtype) for size in (70, 30))
    exact = dY.double().T @ X.double()
    product = multiply(dY.T, X)
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=EPSILON[dtype] * exact.abs().max().item())
    assert not any(is_widened(torch.ones(1, **other)) for other in ({"dtype": torch.float32}, {"device": "meta"}))


@pytest.mark.parametrize("dtype", EPSILON)
def test_a_linear_layer_has_the_outputs_of_torch_and_its_gradients_to_their_rounding(slow, dtype):
    torchs = torch.nn.Linear(70, 30, dtype=dtype)
    ours = Linear(*map(torch.nn.Parameter, (torchs.weight.detach(), torchs.bias.detach())))
    x, dy = torch.randn(2, 5, 70, dtype=dtype), torch.randn(2, 5, 30, dtype=dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(own) for layer, own in zip((ours, torchs), inputs, strict=True)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.backward(dy)
    for own, expected in zip((inputs[0], *ours.parameters()), (inputs[1], *torchs.parameters()), strict=True):
        bound = EPSILON[dtype] * expected.grad.abs().max().item()
        torch.testing.assert_close(own.grad, expected.grad, rtol=0, atol=bound)
    ours.weight.requires_grad_(False)
    assert linear(x, ours.weight).requires_grad is False
