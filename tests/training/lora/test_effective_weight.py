"""W' = (W + s B A) * M by each module, against the definition: fused multiply-adds in the order of the ranks."""

import ctypes
import ctypes.util
import importlib.util
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sparseft.training.lora import carried_mask, cpu_weights, masked_lora
from sparseft.training.lora.carried_mask import carry_mask_
from sparseft.training.lora.effective_weight import Workspace

FLOATS = [torch.bfloat16, torch.float16, torch.float32]
RANKS = [1, 2, 3, 8, 16, 17, 32, 64]
# One weight; a row; odd widths; more rows and columns than a tile of the Triton kernels or a block of the compiled
# loop.
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
    """Return a copy of triton_weights whose kernels are interpreted. Triton decides this when the module is
    imported."""
    pytest.importorskip("triton", reason="Triton is only installed on Linux with an x86-64 processor")
    spec = importlib.util.find_spec("sparseft.training.lora.triton_weights")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        correct_bf16(patch)
        yield module


def correct_bf16(patch: pytest.MonkeyPatch) -> None:
    """Let the interpreter compute with bf16 as a GPU does. Triton's truncates to bf16, and multiplies its bits."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounded(self, values, kind):
        if kind.scalar != tl.bfloat16:
            return cast(self, values, kind)
        bits = torch.from_numpy(values.data).bfloat16().view(torch.int16).numpy()
        return TensorHandle(bits.view(np.uint16), tl.bfloat16)

    def product(self, left, right, *others):
        return dot(self, cast(self, left, tl.float32), cast(self, right, tl.float32), *others)

    patch.setattr(InterpreterBuilder, "cast_impl", rounded)
    patch.setattr(InterpreterBuilder, "create_dot", product)


def problem(out: int, inside: int, r: int, dtype: torch.dtype, factors: torch.dtype = torch.float16) -> tuple:
    """Return W, its mask, and A and B, in fp32, of the size that a training of SmolLM2 leaves.

    A and B are rounded to `factors`. If that is fp16, their products are exact in fp32. The interpreter needs this,
    because the multiply-add of its older versions is not fused."""
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


@pytest.mark.long
@pytest.mark.parametrize("dtype", FLOATS)
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


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pruned", ["all", "none", "some"])
def test_the_modules_give_the_same_bits_for_any_mask_and_shape(pruned, dtype, kernels):
    for shape in SHAPES:
        W, kept, A, B = problem(*shape, 4, dtype)
        kept = {"all": torch.zeros_like(kept), "none": torch.ones_like(kept), "some": kept}[pruned]
        W[:, ::7] = -0.0
        assert same_bits(built(kernels, W, kept, A, B), built(cpu_weights, W, kept, A, B))
        assert not built(kernels, W, kept, A, B)[~kept].view(torch.uint8).any()


@pytest.mark.parametrize("dtype", FLOATS)
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


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_weight_whose_rows_lie_apart_is_built_as_its_copy(dtype, kernels):
    W, kept, A, B = problem(6, 90, 3, dtype)
    wide = torch.zeros(6, 200, dtype=dtype)
    wide[:, 50:140] = carry_mask_(W, kept)
    out = torch.zeros(6, 200, dtype=dtype)
    kernels.build(out[:, 50:140], wide[:, 50:140], A, B)
    assert same_bits(out[:, 50:140].contiguous(), built(kernels, W, kept, A, B))
    assert not out[:, :50].any()
    assert not out[:, 140:].any()


@pytest.mark.long
@pytest.mark.parametrize("dtype", FLOATS[:2])
@pytest.mark.parametrize("r", [1, 16, 40])
def test_the_gradients_of_a_gpu_are_nearer_to_the_exact_ones_than_those_of_a_cpu(r, dtype, interpreted):
    for shape in [*SHAPES, (300, 130)]:
        W, kept, A, B = problem(*shape, r, dtype)
        G = torch.randn(shape, generator=torch.Generator().manual_seed(r)).to(dtype)
        exact = (G * kept).double()
        dA = 1 + B.to(dtype).double().T @ exact
        dB = exact @ A.to(dtype).double().T
        # What is pruned may have overflown.
        G[~kept] = torch.nan
        found = [(torch.ones_like(A), torch.empty_like(B)) for _ in range(2)]
        for gradients, add in zip(found, (interpreted.add_gradients, masked_lora._add_gradients), strict=True):
            add(*gradients, G.clone(), carry_mask_(W.clone(), kept), A, B)
        for ours, theirs, truth in zip(*found, (dA, dB), strict=True):
            assert (ours - truth).abs().max() <= 1e-6 * truth.abs().max()
            assert (ours - truth).norm() <= (theirs - truth).norm() + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gpu_gets_only_fused_steps_one_addition_and_one_rounding_per_weight(dtype, capability, monkeypatch):
    """Read the PTX of every kernel that a GPU of this generation runs. ptxas fuses and splits nothing that says
    `.rn`."""
    pytest.importorskip("triton", reason="Triton is only installed on Linux with an x86-64 processor")
    codes = compiled_for_a_gpu(dtype, capability, monkeypatch)
    builds = [code for name, code in codes if name == "_build_tile"]
    assert len(builds) == 5
    is_half = dtype != torch.float32
    name = {torch.float16: "f16", torch.bfloat16: "bf16"}.get(dtype)
    allowed = {"fma.rn.f32", "fma.rn.f32x2", "add.rn.f32", "add.rn.f32x2"}
    # 16 bits are converted to fp32 exactly, also inside the addition.
    exact = {f"cvt.f32.{name}", f"add.rn.f32.{name}"}
    allowed |= {f"cvt.rn.{name}.f32", f"cvt.rn.{name}x2.f32", *exact} if is_half else set()
    for code in builds:
        names = float_operations(code)
        assert set(names) <= allowed
        fused, added, rounded = (lanes(names, prefix) for prefix in ("fma.", "add.", "cvt.rn."))
        assert fused == added > 0
        assert rounded == (added if is_half else 0)
    gradients = [code for name, code in codes if name == "_gradients_part"]
    assert len(gradients) == (7 if is_half else 0)
    for code in gradients:
        # Each program has its own sums, in fp32, of products of 16-bit matrices.
        assert not re.search(r"\b(atom|red)\.|tf32", code)
        sums = {name for name in float_operations(code) if name.startswith(("mma", "wgmma"))}
        assert all(".f32." in name for name in sums) and (sums or "kind::f16" in code)


def float_operations(code: str) -> list[str]:
    """Return the names of PTX's instructions with numbers, in their order. None may flush subnormal numbers."""
    assert ".ftz" not in code
    return re.findall(r"^\s*(?:@!?%p\d+ )?([a-z]\w*\.\S*f(?:16|32|64)\S*)\s", code, re.MULTILINE)


def lanes(names: list[str], prefix: str) -> int:
    """Return how many numbers the instructions with this prefix make. One with "x2" makes two."""
    return sum(1 + ("x2" in name) for name in names if name.startswith(prefix))


def compiled_for_a_gpu(dtype: torch.dtype, capability: int, monkeypatch) -> list[tuple[str, str]]:
    """Let both functions compile, and not launch, what a GPU would run, down to the machine code. Return the name and
    the PTX of each kernel.

    Triton compiles a kernel anew if a size or a stride is 1 or a multiple of 16, and if an address is a multiple of 16.
    So the ranks from 1 to 64 take three; for the gradients five, because they are computed 16 or 32 at a
    time."""
    import triton
    from sparseft.training.lora import triton_weights
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    launch = JITFunction.run
    codes = {}

    def compile_only(self, *arguments, **settings):
        kernel = launch(self, *arguments, **settings | {"warmup": True})
        codes[kernel.hash] = (self.fn.__name__, kernel.asm["ptx"])

    gpu = SimpleNamespace(
        get_current_device=lambda: capability,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", gpu)
    monkeypatch.setattr(JITFunction, "run", compile_only)
    # Rows, columns, ranks, and the rows before W in its memory.
    for rows, cols, ranks, before in ((1, 1, [1], 0), (3, 65, range(1, 65), 1), (16, 512, [16], 0)):
        W = torch.zeros(before + rows, cols, dtype=dtype)[before:]
        for r in ranks:
            A, B = torch.zeros(r, cols), torch.zeros(rows, r)
            triton_weights.build(W, W, A, B)
            if dtype != torch.float32:
                triton_weights.add_gradients(A, B, W, W, A, B)
    return list(codes.values())


@pytest.mark.parametrize("dtype", FLOATS)
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


@pytest.mark.parametrize("shape", [(3584, 18944), (14336, 4096), (8192, 28672)])
def test_the_gradient_of_a_layer_of_up_to_70b_is_one_block_on_a_gpu(shape, monkeypatch):
    monkeypatch.setitem(carried_mask.BLOCK, "meta", carried_mask.BLOCK["cuda"])
    assert list(carried_mask.row_blocks(torch.empty(shape, device="meta"))) == [slice(0, shape[0])]
