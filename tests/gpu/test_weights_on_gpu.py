"""W' and masked gradients have the bits of the CPU's compiled loop, whatever the environment says about TF32."""

import os
import subprocess
import sys
from itertools import product
from types import ModuleType

import pytest
import torch
from sparseft.models.language_model.products import multiply
from sparseft.training.lora import cpu_weights, effective_weight
from sparseft.training.lora.carried_mask import bits_of, carry_mask_
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.masked_lora import MaskedLoRAFunction
from torch import Tensor

CPU = torch.device("cpu")
RANKS = [1, 2, 3, 8, 16, 17, 32, 64]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# One weight, one row, odd widths, one column.
SHAPES = [(1, 1), (1, 1100), (3, 65), (129, 257), (77, 1)]
KEPT_SHARES = [0.0, 0.5, 1.0]
# The size of W and of B A. Sums at 1e-39 are subnormal in fp32 and bf16. Sums at 6e4 overflow in fp16.
SCALES = [0.2, 1e-39, 6e4]
# Shape, share and scale. The last case has several hundred tiles.
CASES = [*product(SHAPES, KEPT_SHARES, SCALES), ((530, 1030), 0.5, 0.2)]
TF32 = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "NVIDIA_TF32_OVERRIDE": "1"}


def problem(shape: tuple[int, int], r: int, dtype: torch.dtype, share: float, scale: float) -> tuple[Tensor, ...]:
    """Return W, which carries its mask, A and B on the CPU. A hundredth of W is 0 or -0.0."""
    generator = torch.Generator().manual_seed(1000 * r + shape[1])
    rows, cols = shape
    W = scale * torch.randn(shape, generator=generator)
    zeros = torch.rand(shape, generator=generator)
    W = W.where(zeros > 0.005, 0.0).where(zeros < 0.995, -0.0).to(dtype)
    kept = torch.rand(shape, generator=generator) < share
    A = torch.randn(r, cols, generator=generator)
    B = scale / 20 * torch.randn(rows, r, generator=generator)
    return carry_mask_(W, kept), A, B


@pytest.fixture
def kernels(device) -> ModuleType:
    """Return the module that builds weights on the device."""
    used = effective_weight.kernels(device)
    assert used.__name__.endswith("triton_weights" if device.type == "cuda" else "cpu_weights")
    return used


def built(kernels: ModuleType, device: torch.device, W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return the bits of W' with s = 1, on the CPU. Bits tell +0.0 from -0.0."""
    out = torch.empty_like(W, device=device)
    kernels.build(out, W.to(device), A.to(device), B.to(device))
    return bits_of(out).cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("r", RANKS)
def test_the_effective_weight_has_the_bits_of_the_cpu(kernels, device, r, dtype):
    for shape, share, scale in CASES:
        W, A, B = problem(shape, r, dtype, share, scale)
        ours = built(kernels, device, W, A, B)
        assert torch.equal(ours, built(cpu_weights, CPU, W, A, B)), (shape, share, scale)


def test_a_weight_of_more_than_2_to_the_31_numbers_has_the_bits_of_the_cpu(kernels, device):
    rows, cols = ((1 << 15) + 8, 1 << 16) if device.type == "cuda" else (40, 70)
    W = torch.randn(rows, cols, dtype=torch.bfloat16, device=device)
    A, B = torch.randn(8, cols), torch.randn(rows, 8)
    out, expected = torch.empty_like(W), torch.empty(16, cols, dtype=W.dtype)
    kernels.build(out, W, A.to(device), B.to(device))
    cpu_weights.build(expected, W[-16:].cpu(), A, B[-16:])
    assert torch.equal(bits_of(out[-16:]).cpu(), bits_of(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_near_to_the_exact_ones_and_the_same_twice(device, note, dtype):
    """The layer is so large that a GPU takes two blocks of it."""
    rows, cols = (14336, 8192) if device.type == "cuda" else (300, 130)
    W, x, dy = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, cols), (64, cols), (64, rows)))
    A, B = torch.randn(16, cols, device=device), torch.randn(rows, 16, device=device)
    kept = torch.rand(rows, cols, device=device) < 0.5
    carry_mask_(W, kept)
    first, second = [], []
    for gradients in (first, second):
        factors = [matrix.clone().requires_grad_() for matrix in (A, B)]
        MaskedLoRAFunction.apply(x, W, None, *factors, 1.0, Workspace()).backward(dy)
        gradients += [factor.grad for factor in factors]
    G = multiply(dy.T, x).double() * kept
    exact = (B.to(dtype).double().T @ G, G @ A.to(dtype).double().T)
    errors = [((ours - truth).norm() / truth.norm()).item() for ours, truth in zip(first, exact, strict=True)]
    note(f"{dtype}: dA and dB differ from the exact ones by {errors[0]:.1e} and {errors[1]:.1e}")
    assert max(errors) < (1e-5 if dtype == torch.float32 else 1e-2)
    assert all(map(torch.equal, first, second))


PRODUCT = """
from sparseft.models.language_model.hardware import choose_device, limit_threads
import torch

limit_threads(1)
device = choose_device()
left, right = torch.randn(2, 1024, 1024, device=device).unbind()
exact = left.double() @ right.double()
print(device.type, ((left @ right - exact).norm() / exact.norm()).item())
"""


@pytest.mark.parametrize("environment", [{}, TF32], ids=["default", "TF32"])
def test_a_product_in_fp32_is_not_in_tf32(device, note, environment):
    """TF32 keeps 11 bits of each factor, so its relative error is about 3e-4."""
    command = [sys.executable, "-c", PRODUCT]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kind, error = done.stdout.split()
    assert kind == device.type
    note(f"fp32 product, relative error: {float(error):.1e} ({'TF32' if environment else 'default'})")
    assert float(error) < 2e-6
