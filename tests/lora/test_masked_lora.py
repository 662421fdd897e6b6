"""The masked layer against autograd, finite differences and PEFT."""

import copy

import pytest
import torch
from sparseft.lora.masked_lora import (
    LoRALinear,
    MaskedLoRAFunction,
    MaskedLoRALinear,
    apply_mask_,
    keep_bits,
    merged_weight,
)
from torch.nn import functional as F

SHAPES = [(6, 4, 2), (3, 11, 5), (1, 1, 1)]  # (out, in, r)


def problem(out: int, inside: int, r: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(out)
    W, A, B = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((out, inside), (r, inside), (out, r))
    )
    X = torch.randn((2, 5, inside), generator=generator, dtype=torch.float64)
    kept = torch.rand((out, inside), generator=generator) < 0.5
    A, B = (matrix.to(torch.float64 if dtype == torch.float64 else torch.float32) for matrix in (A, B))
    return X.to(dtype), W.to(dtype), kept, A, B


def naive(X, W, kept, A, B, s):
    """The definition, by autograd: y = x ((W + s B A) * M)^T."""
    return F.linear(X, (W + (s * (B @ A)).to(W.dtype)) * kept)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck_in_fp64(shape):
    X, W, kept, A, B = problem(*shape)
    inputs = (X.requires_grad_(), W, keep_bits(kept), A.requires_grad_(), B.requires_grad_(), 0.7)
    assert torch.autograd.gradcheck(MaskedLoRAFunction.apply, inputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_equal_the_naive_form_s(shape, dtype, bound):
    X, W, kept, A, B = problem(*shape, dtype)
    leaves = [[tensor.clone().requires_grad_() for tensor in (X, A, B)] for _ in range(2)]
    ours = MaskedLoRAFunction.apply(leaves[0][0], W, keep_bits(kept), *leaves[0][1:], 1.5)
    theirs = naive(leaves[1][0], W, kept, *leaves[1][1:], 1.5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for output in (ours, theirs):
        (output * weight).sum().backward()
    for one, other in [(ours, theirs), *((a.grad, b.grad) for a, b in zip(*leaves, strict=True))]:
        scale = other.abs().max().clamp(min=1e-3).item()
        torch.testing.assert_close(one, other, rtol=0, atol=bound * scale)


def test_the_mask_and_the_scale_are_in_the_gradient():
    X, W, kept, A, B = problem(6, 4, 2)
    A, B = A.requires_grad_(), B.requires_grad_()
    MaskedLoRAFunction.apply(X, W, keep_bits(kept), A, B, 3.0).sum().backward()
    G = torch.ones(10, 6, dtype=torch.float64).T @ X.flatten(0, 1)
    torch.testing.assert_close(B.grad, 3.0 * (G * kept) @ A.detach().T)
    assert not torch.allclose(B.grad, 3.0 * G @ A.detach().T)  # what a straight-through estimator would give


def test_nothing_but_its_inputs_is_saved_for_the_backward():
    X, W, kept, A, B = problem(6, 4, 2)
    keep, saved = keep_bits(kept), []
    inputs = (X.requires_grad_(), W, keep, A.requires_grad_(), B.requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        MaskedLoRAFunction.apply(*inputs, 1.0)
    assert [tensor.data_ptr() for tensor in saved] == [tensor.data_ptr() for tensor in inputs]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_pruned_value_is_positive_zero_and_a_kept_one_untouched(dtype):
    values = torch.tensor([-1.5, float("inf"), float("nan"), -0.0, 2.0, -2.0], dtype=dtype)
    masked = apply_mask_(values.clone(), keep_bits(torch.tensor([False, False, False, False, True, True])))
    assert masked[:4].tolist() == [0.0] * 4
    assert not torch.signbit(masked[:4]).any()
    assert masked[4:].tolist() == [2.0, -2.0]


def test_merged_weight_is_rounded_once():
    # 1 + 2^-9 + 2^-9 is 1 + 2^-8 in fp32, and a tie in bf16: two roundings would lose it, one rounds 1.01171875 up
    W = torch.tensor([[1.0 + 2**-7]], dtype=torch.bfloat16)
    A, B = torch.tensor([[2**-8 + 2**-12]]), torch.tensor([[1.0]])
    expected = (W.float() + A).to(torch.bfloat16)
    assert merged_weight(W, keep_bits(torch.ones(1, 1, dtype=torch.bool)), A, B, 1.0).item() == expected.item()


@pytest.mark.parametrize("kind", [LoRALinear, MaskedLoRALinear])
def test_a_fresh_layer_is_the_pruned_linear(kind):
    _, W, kept, _, _ = problem(6, 4, 2, torch.float32)
    x = torch.randn(3, 4)
    torch.testing.assert_close(kind(W, keep_bits(kept), 2, 2.0)(x), F.linear(x, W * kept))


def test_dense_and_masked_layers_differ_once_trained():
    _, W, kept, A, B = problem(6, 4, 2, torch.float32)
    x = torch.randn(3, 4)
    layers = [kind(W, keep_bits(kept), 2, 2.0) for kind in (LoRALinear, MaskedLoRALinear)]
    for layer in layers:
        layer.lora_A.data, layer.lora_B.data = A, B
    dense, masked = (layer(x) for layer in layers)
    torch.testing.assert_close(dense, F.linear(x, W * kept) + 2.0 * F.linear(F.linear(x, A), B))
    torch.testing.assert_close(masked, F.linear(x, (W + 2.0 * (B @ A)) * kept))
    assert (dense - masked).abs().max() > 0.1


def test_the_base_weight_given_is_not_changed():
    _, W, kept, _, _ = problem(6, 4, 2, torch.float32)
    before = copy.deepcopy(W)
    MaskedLoRALinear(W, keep_bits(kept), 2, 2.0)
    assert torch.equal(W, before)
