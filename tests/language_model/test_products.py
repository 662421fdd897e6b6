"""The products of a CPU: the way that a processor takes, and that every way computes the same product."""

import pytest
import torch
from sparseft.language_model import hardware, products
from sparseft.language_model.products import Linear, Way, linear, way_of, ways

EPSILON = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
ONEDNN, COPY, IN_FP32 = Way(onednn=True), Way(copy=True), Way(in_fp32=True)
SHORT = (torch.bfloat16, torch.float16)
WAYS = [*((dtype, Way()) for dtype in EPSILON), (torch.float32, ONEDNN), (torch.bfloat16, COPY)]
WAYS += [(dtype, IN_FP32) for dtype in SHORT]
INTEL = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 amx_tile\n\nprocessor\t: 1\nvendor_id\t: Other\n"
)


@pytest.mark.parametrize(
    ("cpuinfo", "fp32", "bf16"),
    [
        (INTEL, Way(), COPY),
        (INTEL.replace("amx_tile", "avx512f"), Way(), Way()),
        (INTEL.replace("GenuineIntel", "AuthenticAMD"), ONEDNN, Way()),
        ("processor\t: 0\nFeatures\t: fp asimd\n", Way(), Way()),
        (None, Way(), Way()),
    ],
)
def test_vendor_and_features_of_the_first_core_decide_the_way(tmp_path, monkeypatch, cpuinfo, fp32, bf16):
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(products, "has_instructions", lambda dtype: dtype == torch.bfloat16)
    forget()
    assert [way_of(torch.ones(1, dtype=dtype)) for dtype in EPSILON] == [fp32, bf16, IN_FP32]
    assert way_of(torch.ones(1, device="meta")) == Way()
    forget()


def forget() -> None:
    """Let the next call read the processor's description again."""
    hardware.cpu_fields.cache_clear()
    ways.cache_clear()


@pytest.mark.parametrize(("dtype", "way"), WAYS)
@pytest.mark.parametrize("tokens", [50, 0])
@pytest.mark.parametrize("block", [16, 4096])
def test_every_way_computes_the_same_product(dtype, way, tokens, block, monkeypatch):
    monkeypatch.setattr(products, "BLOCK", block)
    dY, X = (torch.randn((tokens, size), generator=torch.Generator().manual_seed(size)).to(dtype) for size in (70, 30))
    exact = dY.double().T @ X.double()
    product = way.multiply(way.transpose(dY), X)
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=EPSILON[dtype] * exact.abs().max().item())
    assert torch.equal(way.multiply(way.transpose(dY), X), product)
    assert way.multiply(dY, torch.ones(70, 30, dtype=dtype)).shape == (tokens, 30)
    assert way.transpose(dY).is_contiguous() == (way.copy or not tokens)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_linear_layer_has_the_outputs_of_torch_and_its_gradients_to_their_rounding(
    dtype, has_instructions, monkeypatch
):
    monkeypatch.setattr(products, "has_instructions", lambda _: has_instructions)
    forget()
    ours, torchs = (layer(70, 30, dtype=dtype) for layer in (Linear, torch.nn.Linear))
    torchs.load_state_dict(ours.state_dict())
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
    forget()
