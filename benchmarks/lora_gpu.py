"""Time one forward and backward pass of a LoRA layer on a GPU: this project beside PEFT and a lean dense LoRA.

    python benchmarks/lora_gpu.py

The table is printed and written to benchmarks/results/. lora_model_gpu.py measures a whole model.

Without a GPU it ends with one line and code 1. `--device cpu --shapes 64x48 --tokens 32 --repeats 1` shows that the
program works.
"""

from itertools import product

import torch
from bench import device_of, interleaved, publish
from lora import (
    CACHED,
    FLOOR,
    MASKED,
    NAIVE,
    SETTINGS,
    NaiveMaskedLoRA,
    check_gradients,
    linear_of,
    peft_layer,
    rows_of,
    step,
)
from sparseft.common.command import run
from sparseft.models.language_model.hardware import limit_threads
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.masked_lora import LoRALinear, MaskedLoRALinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# OUTxIN: a square layer and gate_proj of LLaMA-7B.
SHAPES = ("4096x4096", "11008x4096")
TOKENS = (2048, 8192)
PEFT = "PEFT: defaults (fp32 adapters)"
PEFT_BF16 = "PEFT: bf16 adapters"
LEAN = "lean dense LoRA (unsloth's form)"
EXACT = f"{MASKED}, exact"


class LeanLoRAFunction(torch.autograd.Function):
    """Compute Y = X W^T + s (X A^T) B^T with few launches: every sum is added in place by the product itself.

    It is a dense LoRA, without a mask. A and B are cast to X's dtype. The form is that of github.com/unslothai/unsloth,
    unsloth/kernels: matmul_lora in utils.py, and LoRA_W.backward in fast_lora.py, without quantisation."""

    @staticmethod
    def forward(ctx, X, W, A, B, s):
        """Return Y (T, out) of X (T, in)."""
        ctx.save_for_backward(X, W, A, B)
        ctx.s = s
        low = X @ A.to(X.dtype).T
        return (X @ W.T).addmm_(low, B.to(X.dtype).T, alpha=s)

    @staticmethod
    @once_differentiable
    def backward(ctx, dY):
        """Return the gradients of X, A and B, and None for the other inputs."""
        X, W, A, B = ctx.saved_tensors
        a = A.to(X.dtype)
        b = B.to(X.dtype)
        # (T, r).
        dY_low = dY @ b
        X_low = X @ a.T
        dA = torch.empty_like(a).addmm_(dY_low.T, X, beta=0, alpha=ctx.s)
        dB = torch.empty_like(b).addmm_(dY.T, X_low, beta=0, alpha=ctx.s)
        dX = (dY @ W).addmm_(dY_low, a, alpha=ctx.s)
        return dX, None, dA.to(A.dtype), dB.to(B.dtype), None


class LeanLoRA(nn.Module):
    """Apply LeanLoRAFunction with the tensors of a LoRA layer."""

    def __init__(self, layer: LoRALinear) -> None:
        super().__init__()
        self.weight = layer.weight
        self.lora_A = layer.lora_A
        self.lora_B = layer.lora_B
        self.scale = layer.scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (T, out) for inputs (T, in)."""
        return LeanLoRAFunction.apply(x, self.weight, self.lora_A, self.lora_B, self.scale)


def layers(weight: Tensor, kept: Tensor) -> dict[str, nn.Module]:
    """Return the layers to compare on one weight. Half of the weight is pruned."""

    def ours(kind: type[LoRALinear], settings=SETTINGS) -> LoRALinear:
        return kind(linear_of(weight), kept, settings, Workspace())

    return {
        PEFT: peft_layer(weight * kept),
        PEFT_BF16: peft_layer(weight * kept, autocast_adapter_dtype=False),
        LEAN: LeanLoRA(ours(LoRALinear)),
        NAIVE: NaiveMaskedLoRA(ours(LoRALinear), kept),
        EXACT: ours(MaskedLoRALinear),
        CACHED: ours(MaskedLoRALinear),
    }


def problem(shape: tuple[int, int], tokens: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return, in bf16: a weight (out, in), its mask, bool, with half of it kept, inputs (T, in) and gradients (T,
    out)."""
    weight = torch.randn(shape, device=device).mul_(0.05).bfloat16()
    kept = torch.rand(shape, device=device) < 0.5
    x = torch.randn(tokens, shape[1], device=device).bfloat16().requires_grad_()
    dy = torch.randn(tokens, shape[0], device=device).bfloat16()
    return weight, kept, x, dy


def layer_rows(shape: tuple[int, int], tokens: int, repeats: int, device: torch.device) -> list[list[str]]:
    """Return the rows of one size in the table of layers."""
    weight, kept, x, dy = problem(shape, tokens, device)
    by_name = layers(weight, kept)
    cases = {name: step(layer, x, dy) for name, layer in by_name.items()}
    plain = x.detach()
    cases[FLOOR] = lambda: (plain @ weight.T, dy @ weight, dy.T @ plain)
    # The check gives A and B their values, and is the first to build W'.
    with by_name[CACHED].workspace.caching():
        check_gradients(by_name, x, dy, ((PEFT, PEFT_BF16), (PEFT, LEAN), (NAIVE, EXACT), (NAIVE, CACHED)))
        times = interleaved(cases, repeats, device)
    return rows_of(size_of(shape, tokens), by_name, x, times, (PEFT, LEAN, FLOOR))


def size_of(shape: tuple[int, int], tokens: int) -> str:
    """Return a size as the tables write it."""
    return f"{shape[0]} x {shape[1]}, {tokens}"


def shape_of(text: str) -> tuple[int, int]:
    """Return "64x48" as (64, 48)."""
    out, inside = text.split("x")
    return int(out), int(inside)


def main(
    *, device: str = "cuda", shapes: tuple[str, ...] = SHAPES, tokens: tuple[int, ...] = TOKENS, repeats: int = 9
) -> None:
    """Measure, and report.

    Args:
        device: cuda; cpu only shows that the program works
        shapes: sizes of W, OUTxIN
        tokens: tokens per micro-batch
        repeats: turns after the warm-up
    """
    used = device_of(device)
    limit_threads(1)
    torch.manual_seed(0)
    sizes = list(product(map(shape_of, shapes), tokens))
    conditions = [
        f"bf16, half of the weight pruned, r = {SETTINGS.lora_r}",
        f"median of {repeats} interleaved turns after a warm-up; the GPU has finished its work at both ends of a turn",
        "forward and backward, the gradient of the input too; gradients checked to agree",
        "MB kept for the backward, beyond the layer's own tensors and its input",
    ]
    publish(
        "lora_gpu",
        "One step of a LoRA layer on a GPU",
        conditions,
        ["weight, tokens", "", "ms", "x PEFT", "x lean", "x three products", "MB kept"],
        [row for size in sizes for row in layer_rows(*size, repeats, used)],
        used,
    )


if __name__ == "__main__":
    run(main)
