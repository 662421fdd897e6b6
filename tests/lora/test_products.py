"""The products of a CPU: the way that a processor takes, and that every way computes the same product."""

import os
import subprocess
import sys

import pytest
import torch
from sparseft.lora import products
from sparseft.lora.products import PLAIN, TABLE, Way, processor, row_of, way_of

EPSILON = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
WAYS = [(dtype, PLAIN) for dtype in EPSILON] + [pair for row in TABLE for pair in row.ways.items()]
INTEL = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 amx_tile\n\nprocessor\t: 1\nvendor_id\t: Other\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
PRODUCT = """
import torch
from sparseft.lora.products import way_of
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    matrix = torch.ones(64, 64, dtype=dtype)
    way = way_of(matrix)
    print(way, way.multiply(way.transpose(matrix), matrix).double().sum().item())
print(torch.backends.cpu.get_cpu_capability())
"""


def matrices(dtype, tokens=50):
    """Return dY (T, out) and X (T, in)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((tokens, size), generator=generator).to(dtype) for size in (70, 30)]


@pytest.mark.parametrize(
    ("vendor", "features", "fp32", "bf16"),
    [
        ("AuthenticAMD", {"avx2"}, Way(onednn=True), PLAIN),
        ("AuthenticAMD", {"avx512f", "avx512_bf16"}, Way(onednn=True), PLAIN),
        ("GenuineIntel", {"avx512f", "amx_tile"}, PLAIN, Way(copy=True)),
        ("GenuineIntel", {"avx512f"}, PLAIN, PLAIN),
        ("HygonGenuine", {"avx2", "amx_tile"}, PLAIN, PLAIN),
        ("", set(), PLAIN, PLAIN),
    ],
)
def test_vendor_and_features_decide_the_way(vendor, features, fp32, bf16):
    row = row_of(vendor, features)
    ways = row.ways if row else {}
    assert (ways.get(torch.float32, PLAIN), ways.get(torch.bfloat16, PLAIN)) == (fp32, bf16)


@pytest.mark.parametrize(("dtype", "way"), WAYS)
def test_every_way_computes_the_same_product(dtype, way):
    dY, X = matrices(dtype)
    exact = dY.double().T @ X.double()
    product = way.multiply(way.transpose(dY), X)
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=EPSILON[dtype] * exact.abs().max().item())
    assert torch.equal(way.multiply(way.transpose(dY), X), product)


@pytest.mark.parametrize(("dtype", "way"), WAYS)
def test_an_empty_batch_has_empty_and_zero_products(dtype, way):
    dY, X = matrices(dtype, tokens=0)
    W = torch.ones(70, 30, dtype=dtype)
    assert way.multiply(dY, W).shape == (0, 30)
    assert torch.equal(way.multiply(way.transpose(dY), X), torch.zeros(70, 30, dtype=dtype))


def test_only_a_way_with_a_copy_copies_the_transposed_matrix():
    matrix = torch.randn(3, 5)
    assert PLAIN.transpose(matrix).data_ptr() == matrix.data_ptr()
    copy = Way(copy=True).transpose(matrix)
    assert copy.is_contiguous()
    assert torch.equal(copy, matrix.T)


@pytest.mark.parametrize(
    ("text", "expected"), [(INTEL, ("GenuineIntel", {"fpu", "avx2", "amx_tile"})), (ARM, ("", set()))]
)
def test_the_first_core_of_cpuinfo_says_vendor_and_features(text, expected, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    monkeypatch.setattr(products, "CPUINFO", cpuinfo)
    assert processor() == expected


def test_a_system_without_cpuinfo_has_no_features(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "CPUINFO", tmp_path / "missing")
    assert processor() == ("", frozenset())


@pytest.mark.parametrize("dtype", [*EPSILON, torch.float64])
def test_another_device_multiplies_in_the_plain_way(dtype):
    assert way_of(torch.ones(1, 1, dtype=dtype, device="meta")) == PLAIN


def test_torch_held_to_avx2_takes_the_same_ways():
    # Programs of their own, because torch reads the variable only when it is imported.
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PRODUCT], env=os.environ | extra, check=True, capture_output=True, text=True
        )
        for extra in ({}, {"ATEN_CPU_CAPABILITY": "avx2"})
    ]
    free, held = (output.stdout.splitlines() for output in outputs)
    assert held[:3] == free[:3]
    assert [line.rpartition(" ")[2] for line in free[:3]] == ["262144.0"] * 3
    assert "AVX512" not in held[3]
