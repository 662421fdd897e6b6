"""W' = (W + s B A) * M, by each module that computes it, against the definition: fused multiply-adds in the order of the ranks."""

import ctypes
import ctypes.util
import importlib.util
import re

import numpy as np
import pytest
import torch
from sparseft.lora import carried_mask, cpu_weights
from sparseft.lora.carried_mask import carry_mask_
from sparseft.lora.effective_weight import Workspace

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
NARROW = FLOATS[:3]
RANKS = [1, 2, 3, 8, 16, 17, 32, 64]
# One weight; a row; odd widths; more rows and columns than a tile of the Triton kernels or a block of the compiled loop.
SHAPES = [(1, 1), (1, 1100), (3, 65), (19, 513)]
# The C library's fused multiply-add.
_LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
_LIBM.fmaf.restype = ctypes.c_float
_LIBM.fmaf.argtypes = [ctypes.c_float] * 3
fmaf = np.vectorize(_LIBM.fmaf, otypes=[np.float32])


@pytest.fixture(params=["cpu_weights", "triton_weights"])
def kernels(request, interpreted):
    """Return each module. The Triton kernels run in Triton's interpreter, on the CPU."""
    return {"cpu_weights": cpu_weights, "triton_weights": interpreted}[request.param]


@pytest.fixture(scope="module")
def interpreted():
    """Return a copy of triton_weights whose kernels are interpreted. Triton decides this when the module is imported."""
    pytest.importorskip("triton", reason="Triton is only installed on Linux with an x86-64 processor")
    spec = importlib.util.find_spec("sparseft.lora.triton_weights")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module


def problem(out: int, inside: int, r: int, dtype: torch.dtype, factors: torch.dtype = torch.float16) -> tuple:
    """Return W, its mask, and A and B, in fp32, of the size that a training of SmolLM2 leaves.

    A and B are rounded to `factors`. If that is fp16, their products are exact in fp32. The interpreter needs this, because
    the multiply-add of its older versions is not fused."""
    generator = torch.Generator().manual_seed(1000 * r + inside)
    W = (0.2 * torch.randn(out, inside, generator=generator)).to(dtype)
    A = 0.017 * torch.randn(r, inside, generator=generator)
    B = 0.009 * torch.randn(out, r, generator=generator)
    kept = torch.rand(out, inside, generator=generator) < 0.7
    return W, kept, A.to(factors).float(), B.to(factors).float()


def built(kernels, W: torch.Tensor, kept: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return (W + B A) * M by a module."""
    out = torch.full_like(W, 7)
    kernels.build(out, carry_mask_(W.clone(), kept), A, B)
    return out


def merged(W: torch.Tensor, kept: torch.Tensor, A: torch.Tensor, B: torch.Tensor, scale: float) -> torch.Tensor:
    return Workspace().merged(carry_mask_(W.clone(), kept), A, B, scale)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("r", RANKS)
def test_the_weight_is_the_plain_loop_of_fused_steps_with_w_added_last(r, dtype, kernels):
    factors = torch.float16 if kernels.__name__.endswith("triton_weights") else torch.float32
    for shape in SHAPES[:3]:
        W, kept, A, B = problem(*shape, r, dtype, factors)
        total = np.zeros(shape, np.float32)
        for k in range(r):
            total = fmaf(B[:, k : k + 1].numpy(), A[k].numpy(), total)
        expected = (W.float() + torch.from_numpy(total)).to(dtype).masked_fill(~kept, 0)
        assert same_bits(built(kernels, W, kept, A, B), expected), shape


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("pruned", ["all", "none", "some"])
def test_the_modules_give_the_same_bits_for_any_mask_and_shape(pruned, dtype, kernels):
    for shape in SHAPES:
        W, kept, A, B = problem(*shape, 4, dtype)
        kept = {"all": torch.zeros_like(kept), "none": torch.ones_like(kept), "some": kept}[pruned]
        W[:, ::7] = -0.0
        assert same_bits(built(kernels, W, kept, A, B), built(cpu_weights, W, kept, A, B))
        assert not built(kernels, W, kept, A, B)[~kept].view(torch.uint8).any()


@pytest.mark.parametrize("dtype", NARROW)
def test_nan_and_infinity_reach_every_kept_weight_of_their_row(dtype, kernels):
    kept = torch.arange(70) % 3 > 0
    # The bits of this NaN are all set, but for the sign. A rounding by addition would turn it into -0.0.
    nan = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32).item()
    B = torch.tensor([[0, nan], [torch.inf, 1], [-1, 0.5]])
    found = built(kernels, torch.ones(3, 70, dtype=dtype), kept.expand(3, 70), torch.ones(2, 70), 2 * B)
    assert found[0, kept].isnan().all()
    assert (found[1, kept] == torch.inf).all()
    # 1 - 2 + 1
    assert not found[2].any()
    assert not found[:, ~kept].view(torch.uint8).any()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_weight_whose_rows_lie_apart_is_built_as_its_copy(dtype, kernels):
    W, kept, A, B = problem(6, 90, 3, dtype)
    wide = torch.zeros(6, 200, dtype=dtype)
    wide[:, 50:140] = carry_mask_(W, kept)
    out = torch.zeros(6, 200, dtype=dtype)
    kernels.build(out[:, 50:140], wide[:, 50:140], A, B)
    assert same_bits(out[:, 50:140].contiguous(), built(kernels, W, kept, A, B))
    assert not out[:, :50].any()
    assert not out[:, 140:].any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_pruned_value_is_positive_zero_and_a_kept_one_untouched(dtype):
    values = torch.tensor([[-1.5, torch.inf, torch.nan, -0.0, 2.0, -0.0]], dtype=dtype)
    W = carry_mask_(torch.ones(1, 6, dtype=dtype), torch.tensor([[False, False, False, False, True, True]]))
    found = carried_mask.mask_(values.clone(), W)
    assert not found[0, :4].view(torch.uint8).any()
    assert same_bits(found[0, 4:], values[0, 4:])


@pytest.mark.process
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", NARROW)
def test_the_compiled_triton_kernel_has_only_fused_steps_one_addition_and_one_rounding(dtype, capability):
    """Read the instructions for a GPU. Compiling needs none."""
    pytest.importorskip("triton", reason="Triton is only installed on Linux with an x86-64 processor")
    operations = float_operations(dtype, capability)
    assert operations.pop("fma.rn.f32") == operations.pop("add.f32") > 0
    expected = {"cvt.f32.f16", "cvt.rn.f16.f32"} if dtype == torch.float16 else set()
    assert {name for name in operations if not name.startswith("setp.")} == expected


def float_operations(dtype: torch.dtype, capability: int) -> dict[str, int]:
    """Return how often each instruction on floating-point numbers is in the kernel that builds W', as PTX."""
    import triton
    from sparseft.lora import triton_weights
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    word = f"*i{8 * dtype.itemsize}"
    sizes = dict.fromkeys(["rows", "cols", "W_stride", "out_stride", "rank"], "i32")
    constants = {"DTYPE": str(dtype), "SIGN": -(1 << 8 * dtype.itemsize - 1), "ROWS": 16, "COLS": 512}
    types = {"W": word, "out": word, "A": "*fp32", "B": "*fp32", **sizes, **dict.fromkeys(constants, "constexpr")}
    kernel = triton_weights._build_tile
    source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constants)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    names = re.findall(r"^\s*(?:@%p\d+ )?([a-z]+\.\S*f(?:16|32|64)\S*)\s", code, re.MULTILINE)
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize("dtype", NARROW)
def test_blocks_and_threads_change_no_bit(dtype, monkeypatch):
    W, kept, A, B = problem(97, 33, 5, dtype)
    found = []
    for block, threads in ((1 << 20, 1), (100, 1), (1 << 20, 2), (1 << 20, 5)):
        monkeypatch.setitem(carried_mask.BLOCK, "cpu", block)
        torch.set_num_threads(threads)
        found.append(merged(W, kept, A, B, 0.3))
    torch.set_num_threads(1)
    assert all(same_bits(found[0], other) for other in found[1:])


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_weight_carries_its_mask(dtype):
    weight = torch.tensor([[-1.5, torch.inf, -0.0, 0.0], [-0.0, 0.0, 2.0, -2.0]], dtype=dtype)
    kept = torch.tensor([[False] * 4, [True] * 4])
    carried = carry_mask_(weight.clone(), kept)
    assert torch.equal(carried_mask.carried_mask(carried), kept)
    assert torch.equal(carried[0], torch.zeros(4, dtype=dtype))
    assert carried[1].tolist() == [0.0, 0.0, 2.0, -2.0]
    assert same_bits(carry_mask_(carried.clone(), kept), carried)
