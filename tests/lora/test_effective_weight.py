"""W' = (W + s B A) * M against the definition: s B A over the ranks in fp32, then W, then M, then one rounding."""

import numpy as np
import pytest
import torch
from sparseft.lora import effective_weight
from sparseft.lora.effective_weight import Workspace, carry_mask_

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def problem(out: int, inside: int, r: int, dtype: torch.dtype) -> tuple:
    """Return W, its mask, and A and B of the size that a training of SmolLM2 leaves; A and B in fp32 unless W is fp64."""
    generator = torch.Generator().manual_seed(1000 * r + inside)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    W = (0.2 * torch.randn(out, inside, generator=generator)).to(dtype)
    A = 0.017 * torch.randn(r, inside, generator=generator, dtype=wide)
    B = 0.009 * torch.randn(out, r, generator=generator, dtype=wide)
    return W, torch.rand(out, inside, generator=generator) < 0.7, A, B


def merged(W: torch.Tensor, kept: torch.Tensor, A: torch.Tensor, B: torch.Tensor, scale: float) -> torch.Tensor:
    return Workspace().merged(carry_mask_(W.clone(), kept), A, B, scale)


def separate_step(b: np.ndarray, a: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return b * a + total in fp32 with two roundings."""
    return b * a + total


def fused_step(b: np.ndarray, a: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return b * a + total in fp32 with one rounding.

    The product is exact in fp64. The sum is rounded to odd there, after which the rounding to fp32 is that of the exact
    value (Boldo and Melquiond 2008, 53 >= 2 * 24 + 2 bits)."""
    product, total = b.astype(np.float64) * a, total.astype(np.float64)
    found = product + total
    added = found - product
    error = (product - (found - added)) + (total - added)
    bits = found.view(np.int64)
    towards_zero = bits - ((error != 0) & (np.signbit(error) != np.signbit(found)))
    return np.where(error != 0, towards_zero | 1, bits).view(np.float64).astype(np.float32)


def fuses() -> bool:
    """Return whether the compiled loop rounds b * a + total once.

    (1 + 2^-12)^2 is 1 + 2^-11 + 2^-24, and its last term is lost if the product is rounded by itself."""
    A, B = torch.tensor([[1 + 2**-11], [1 + 2**-12]]), torch.tensor([[-1, 1 + 2**-12]])
    found = merged(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), A, B, 1.0).item()
    assert found in (0, 2**-24)
    return found == 2**-24


@pytest.mark.parametrize("dtype", effective_weight.COMPILED)
def test_the_compiled_weight_is_the_plain_loop_over_the_ranks_with_w_added_last(dtype):
    step = fused_step if fuses() else separate_step
    for r in range(1, 65):
        for shape in [(1, 1), (3, 65), (2, 129), (1, 1100)]:
            W, kept, A, B = problem(*shape, r, dtype)
            factors, total = (1.5 * B).numpy(), np.zeros(shape, np.float32)
            for k in range(r):
                total = step(factors[:, k : k + 1], A[k].numpy(), total)
            expected = (W.float() + torch.from_numpy(total)).to(dtype) * kept
            assert torch.equal(merged(W, kept, A, B, 1.5), expected), (r, shape)


def test_the_two_forms_of_the_plain_loop_differ():
    """Otherwise the test above could not tell which one the loop is."""
    one, small = np.float32([1 + 2**-12]), np.float32([-1 - 2**-11])
    assert separate_step(one, one, small).tolist() == [0]
    assert fused_step(one, one, small).tolist() == [2**-24]


def test_ranks_that_w_would_swallow_one_by_one_are_in_the_sum():
    """2^-25 is a quarter of the distance from 1 to the next float32. Eight of them are two whole distances."""
    W, kept = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
    assert merged(W, kept, torch.full((8, 1), 2**-25), torch.ones(1, 8), 1.0).item() == 1 + 2**-22


@pytest.mark.parametrize("compiled", [(), effective_weight.COMPILED], ids=["torch", "compiled where it can be"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_rank_is_the_rounded_product_plus_w_on_every_path(dtype, compiled, monkeypatch):
    """With one rank there is one order only, so that torch's product and the compiled loop have the same bits."""
    monkeypatch.setattr(effective_weight, "COMPILED", compiled)
    W, kept, A, B = problem(37, 129, 1, dtype)
    expected = ((0.3 * B) * A + W).to(dtype) * kept
    assert torch.equal(merged(W, kept, A, B, 0.3), expected)


@pytest.mark.parametrize("compiled", [(), effective_weight.COMPILED], ids=["torch", "compiled"])
@pytest.mark.parametrize("r", [8, 16])
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.02), (torch.bfloat16, 2e-5)])
def test_few_weights_differ_from_the_exact_value_rounded_once(dtype, share, r, compiled, monkeypatch):
    monkeypatch.setattr(effective_weight, "COMPILED", compiled)
    W, kept, A, B = problem(512, 512, r, dtype)
    exact = (W.double() + 2.0 * B.double() @ A.double()).to(dtype) * kept
    assert (merged(W, kept, A, B, 2.0) != exact).float().mean() < share
