"""The masked layer against autograd."""

import pytest
import torch
from sparseft.common.errors import InputError
from sparseft.training.lora import carried_mask
from sparseft.training.lora.carried_mask import carry_mask_
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.factors import initial_factor
from sparseft.training.lora.masked_lora import (
    LoRALinear,
    MaskedLoRAFunction,
    MaskedLoRALinear,
    StructuredLoRALinear,
    attach,
)
from sparseft.training.settings import Training
from torch import nn
from torch.nn import functional as F

SHAPES = [(6, 4, 2), (3, 11, 5), (1, 1, 1)]  # (out, in, r)
FLOATS = [torch.bfloat16, torch.float16, torch.float32]
SETTINGS = Training(lora_r=2, lora_alpha=4.0)
KINDS = [LoRALinear, StructuredLoRALinear, MaskedLoRALinear]


@pytest.fixture(params=[1 << 20, 8], ids=["whole", "blocks"])
def blocks(request, monkeypatch):
    """Compute in one block, and in blocks of a few rows."""
    monkeypatch.setitem(carried_mask.BLOCK, "cpu", request.param)


def problem(out: int, inside: int, r: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(out)
    W, A, B = (torch.randn(shape, generator=generator) for shape in ((out, inside), (r, inside), (out, r)))
    X = torch.randn((2, 5, inside), generator=generator)
    kept = torch.rand((out, inside), generator=generator) < 0.5
    return X.to(dtype), W.to(dtype), kept, A, B


def linear_of(W, b=None):
    linear = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, dtype=W.dtype)
    linear.load_state_dict({"weight": W} if b is None else {"weight": W, "bias": b})
    return linear.requires_grad_(False)


def layer_of(kind, W, kept, settings=SETTINGS, b=None):
    return kind(linear_of(W, b), kept, settings, Workspace())


def naive(X, W, kept, A, B, s, b=None):
    """Return y = x ((W + s B A) * M)^T + b as it is defined, with autograd's gradients."""
    return F.linear(X, (W + (s * (B @ A)).to(W.dtype)) * kept, b)


@pytest.mark.parametrize("shape", [*SHAPES, (40, 24, 4)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_output_and_gradients_equal_the_naive_form_s(shape, dtype, bound, has_bias, blocks):
    X, W, kept, A, B = problem(*shape, dtype)
    b = torch.randn(W.shape[0]).to(dtype) if has_bias else None
    leaves = [[tensor.clone().requires_grad_() for tensor in (X, A, B)] for _ in range(2)]
    ours = MaskedLoRAFunction.apply(leaves[0][0], carry_mask_(W.clone(), kept), b, *leaves[0][1:], 1.5, Workspace())
    theirs = naive(leaves[1][0], W, kept, *leaves[1][1:], 1.5, b)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for output in (ours, theirs):
        (output * weight).sum().backward()
    for one, other in [(ours, theirs), *((a.grad, b.grad) for a, b in zip(*leaves, strict=True))]:
        scale = other.abs().max().clamp(min=1e-3).item()
        torch.testing.assert_close(one, other, rtol=0, atol=bound * scale)


def test_nothing_but_its_inputs_is_saved_for_the_backward():
    X, W, kept, A, B = problem(6, 4, 2)
    saved, inputs = [], (X.requires_grad_(), carry_mask_(W, kept), A.requires_grad_(), B.requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        MaskedLoRAFunction.apply(*inputs[:2], None, *inputs[2:], 1.0, Workspace())
    assert [tensor.data_ptr() for tensor in saved] == [tensor.data_ptr() for tensor in inputs]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_masked_layer_has_the_bits_of_the_linear_that_it_merges_to(dtype, has_bias):
    X, W, kept, A, B = problem(40, 24, 4, dtype)
    b = torch.randn(W.shape[0]).to(dtype) if has_bias else None
    layer, linear = layer_of(MaskedLoRALinear, W, kept, b=b), linear_of(W, b)
    layer.lora_A.data, layer.lora_B.data = A, B
    linear.weight.data.copy_(layer.workspace.merged(layer.weight, *layer.factors(), layer.scale))
    assert torch.equal(layer(X), linear(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_layer_without_a_token_returns_nothing_and_has_zero_gradients(kind, dtype):
    _, W, kept, _, _ = problem(6, 4, 2, dtype)
    layer = layer_of(kind, W, kept if kind is MaskedLoRALinear else torch.ones_like(kept))
    x = torch.zeros(0, 4, dtype=dtype, requires_grad=True)  # An expert's tokens, if the router sends it none.
    y = layer(x)
    assert y.shape == (0, 6)
    y.sum().backward()
    assert not layer.lora_A.grad.any()
    assert not layer.lora_B.grad.any()


def test_a_new_factor_takes_the_same_numbers_for_every_device():
    states = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        initial_factor(4, 8, torch.device(device))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_structured_gradients_are_those_of_the_masked_layer():
    _, W, _, A, B = problem(6, 4, 2, torch.float32)
    kept, found = torch.tensor([True, False, True, True, False, True])[:, None].expand(6, 4), []
    x, dy = torch.randn(7, 4), torch.randn(7, 6)
    for kind in (StructuredLoRALinear, MaskedLoRALinear):
        layer = layer_of(kind, W, kept)
        layer.lora_A.data, layer.lora_B.data = A.clone(), B.clone()
        layer(x).backward(dy)
        found.append([layer.lora_A.grad, layer.lora_B.grad])
    torch.testing.assert_close(*found)
    assert not found[0][1][1].any()  # a pruned row of B


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.up_proj = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)


@pytest.mark.parametrize(("method", "kind"),
                         [("ones", LoRALinear), ("rows", StructuredLoRALinear), ("any", MaskedLoRALinear)])  # fmt: skip
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_the_mask_decides_the_layer(mode, method, kind):
    kept = torch.ones(6, 4, dtype=torch.bool)
    kept[1 : 2 if method == "rows" else 3, 0 if method == "rows" else 1 :] = method == "ones"
    if method == "any":
        kept[5, 0] = False
    layers = attach(Two(), lambda _: kept, {"q_proj": "q_proj", "up_proj": "up_proj"}, mode, SETTINGS)
    assert {type(layer) for layer in layers.values()} == {kind if mode == "sparse_to_sparse" else LoRALinear}


def test_a_layer_that_is_no_target_is_pruned_and_gets_no_adapter():
    model, kept = Two(), torch.rand(6, 4) < 0.5
    settings = SETTINGS.model_copy(update={"lora_targets": ["q_proj"]})
    layers = attach(model, lambda _: kept, {"q_proj": "q_proj", "up_proj": "up_proj"}, "sparse_to_sparse", settings)
    assert list(layers) == ["q_proj"]
    assert type(model.up_proj) is nn.Linear
    assert torch.equal(carried_mask.carried_mask(model.up_proj.weight), kept)


def test_dropout_is_only_in_the_adapter():
    settings = SETTINGS.model_copy(update={"lora_dropout": 0.5})
    _, W, kept, A, B = problem(6, 4, 2, torch.float32)
    layer, x = layer_of(LoRALinear, W, kept, settings), torch.ones(20000, 4)
    torch.manual_seed(0)
    layer.lora_A.data, layer.lora_B.data = A, B
    plain, dropped = F.linear(x, W * kept), layer(x)
    expected = plain + 2.0 * F.linear(F.linear(x, A), B)
    assert (dropped - expected).abs().max() > 0.1
    torch.testing.assert_close(dropped.mean(0), expected[0], rtol=0.1, atol=0.3)
    torch.testing.assert_close(layer.eval()(x), expected)


def test_targets_that_no_layer_has_are_refused():
    with pytest.raises(InputError, match="none of w1; .*q_proj"):
        Training(lora_targets=["w1"]).check("sparse_to_dense", {"q_proj"})


def test_a_weight_that_carries_its_mask_is_not_written_to():
    weight, kept = torch.randn(6, 8), torch.ones(6, 8, dtype=torch.bool)
    assert carry_mask_(weight, kept)._version == 0
    kept[2, 3] = False
    version = carry_mask_(weight, kept)._version
    assert carry_mask_(weight, kept)._version == version > 0
