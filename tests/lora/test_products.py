"""The products of a CPU: the way that a processor takes, and that every way computes the same product."""

import pytest
import torch
from sparseft.language_model import hardware
from sparseft.lora.products import Way, way_of, ways

EPSILON = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
ONEDNN, COPY = Way(onednn=True), Way(copy=True)
WAYS = [*((dtype, Way()) for dtype in EPSILON), (torch.float32, ONEDNN), (torch.bfloat16, COPY)]
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
    forget()
    assert [way_of(torch.ones(1, dtype=dtype)) for dtype in EPSILON] == [fp32, bf16, Way()]
    assert way_of(torch.ones(1, device="meta")) == Way()
    forget()


def forget() -> None:
    """Let the next call read the processor's description again."""
    hardware.cpu_fields.cache_clear()
    ways.cache_clear()


@pytest.mark.parametrize(("dtype", "way"), WAYS)
@pytest.mark.parametrize("tokens", [50, 0])
def test_every_way_computes_the_same_product(dtype, way, tokens):
    dY, X = (torch.randn((tokens, size), generator=torch.Generator().manual_seed(size)).to(dtype) for size in (70, 30))
    exact = dY.double().T @ X.double()
    product = way.multiply(way.transpose(dY), X)
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=EPSILON[dtype] * exact.abs().max().item())
    assert torch.equal(way.multiply(way.transpose(dY), X), product)
    assert way.multiply(dY, torch.ones(70, 30, dtype=dtype)).shape == (tokens, 30)
    assert way.transpose(dY).is_contiguous() == (way.copy or not tokens)
