"""Time one forward and backward pass of a LoRA layer on a pruned weight: this project beside PEFT and plain autograd.

    python benchmarks/lora.py

This takes about three minutes. The table is printed and written to benchmarks/results/lora.md. lora_model.py measures a
whole model.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from bench import interleaved, report
from peft import LoraConfig, get_peft_model
from sparseft.models.language_model.hardware import keep_freed_memory
from sparseft.models.language_model.products import multiply
from sparseft.training.lora.effective_weight import Workspace
from sparseft.training.lora.masked_lora import LoRALinear, MaskedLoRALinear, StructuredLoRALinear
from sparseft.training.settings import Training
from torch import Tensor, nn
from torch.nn import functional as F

# (out, in). The second is gate_proj of SmolLM2-135M.
SHAPES = ((2048, 2048), (1536, 576))
TOKENS = (256, 1024)
REPEATS = 9
SETTINGS = Training(lora_r=16, lora_alpha=32.0)
PEFT = "PEFT: lora.Linear, dense"
DENSE = "sparseft: dense"
NAIVE = "autograd: masked, as written"
MASKED = "sparseft: masked"
CACHED = "sparseft: masked, W' kept"
FLOOR = "three products of this size alone"


class NaiveMaskedLoRA(nn.Module):
    """Compute y = x ((W + s B A) * M)^T literally, with the tensors of a LoRA layer. Autograd decides what it keeps."""

    def __init__(self, layer: LoRALinear, kept: Tensor) -> None:
        super().__init__()
        self.weight = layer.weight
        self.lora_A = layer.lora_A
        self.lora_B = layer.lora_B
        self.scale = layer.scale
        self.register_buffer("kept", kept)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for inputs (..., in)."""
        update = (self.scale * self.lora_B @ self.lora_A).to(x.dtype)
        return F.linear(x, (self.weight + update) * self.kept)


def peft_layer(weight: Tensor, autocast_adapter_dtype: bool = True) -> nn.Module:
    """Return PEFT's layer for `weight`, as get_peft_model makes it.

    By default PEFT keeps adapters in fp32, and casts its inputs to fp32."""
    config = LoraConfig(r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules=["0"])
    model = get_peft_model(nn.Sequential(linear_of(weight)), config, autocast_adapter_dtype=autocast_adapter_dtype)
    return model.base_model.model[0]


def linear_of(weight: Tensor) -> nn.Linear:
    """Return a linear layer with a copy of `weight`."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device=weight.device)
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return linear


def layers(weight: Tensor, kept: Tensor) -> dict[str, nn.Module]:
    """Return the layers to compare on one weight. The structured layer has another mask, which keeps half of the
    rows."""
    rows = kept[:, :1].expand_as(kept)

    def ours(kind: type[LoRALinear], mask: Tensor, settings: Training = SETTINGS) -> LoRALinear:
        return kind(linear_of(weight), mask, settings, Workspace())

    return {
        PEFT: peft_layer(weight * kept),
        DENSE: ours(LoRALinear, kept),
        "sparseft: structured": ours(StructuredLoRALinear, rows),
        NAIVE: NaiveMaskedLoRA(ours(LoRALinear, kept), kept),
        MASKED: ours(MaskedLoRALinear, kept),
        CACHED: ours(MaskedLoRALinear, kept),
    }


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """Return a function that runs the forward and the backward pass, with the gradient of the input, as inside a
    network."""

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

    return run


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Return how many bytes a forward pass keeps for the backward pass, without the layer's own tensors and its
    input."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *layer.parameters(), *layer.buffers())}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t}), lambda _: _
    ):
        layer(x)
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)


def check_gradients(by_name: dict[str, nn.Module], x: Tensor, dy: Tensor, pairs: Iterable[tuple[str, str]]) -> None:
    """Stop if, for the same A and B, two layers of a pair, which have the same formula, have different gradients."""
    bound = 2e-2 if x.dtype == torch.bfloat16 else 1e-4
    A = torch.randn(SETTINGS.lora_r, x.shape[1], device=x.device) / x.shape[1] ** 0.5
    B = torch.randn(dy.shape[1], SETTINGS.lora_r, device=x.device) / 10
    gradients = {}
    for name, layer in by_name.items():
        factors = [value for key, value in layer.named_parameters() if "lora_" in key]
        for value, new in zip(factors, (A, B), strict=True):
            value.data.copy_(new)
        step(layer, x, dy)()
        gradients[name] = [value.grad.float() for value in (*factors, x)]
    for one, other in pairs:
        for ours, theirs in zip(gradients[one], gradients[other], strict=True):
            if not (ours - theirs).norm() < bound * theirs.norm():
                raise SystemExit(f"{one} and {other} have different gradients")


def products_alone(x: Tensor, dy: Tensor, weight: Tensor) -> None:
    """Compute the products of a masked layer's step: Y = X W^T, dX = dY W and G = dY^T X."""
    F.linear(x, weight)
    multiply(dy, weight)
    multiply(dy.T, x)


def measure(shape: tuple[int, int], tokens: int, dtype: torch.dtype) -> list[list[str]]:
    """Return the rows of one size in the table."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).mul_(0.05).to(dtype)
    kept = torch.rand(shape, generator=generator) < 0.5
    x = torch.randn(tokens, shape[1]).to(dtype).requires_grad_()
    dy = torch.randn(tokens, shape[0]).to(dtype)
    by_name = layers(weight, kept)
    cases = {name: step(layer, x, dy) for name, layer in by_name.items()}
    # The check gives A and B their values, and is the first to build W'.
    with by_name[CACHED].workspace.caching():
        check_gradients(by_name, x, dy, ((PEFT, DENSE), (NAIVE, MASKED), (NAIVE, CACHED)))
        times = interleaved(cases | {FLOOR: partial(products_alone, x.detach(), dy, weight)}, REPEATS)
    size = f"{shape[0]} x {shape[1]}, {tokens}, {str(dtype).removeprefix('torch.')}"
    return rows_of(size, by_name, x, times, (PEFT, FLOOR))


def rows_of(
    size: str, by_name: dict[str, nn.Module], x: Tensor, times: dict[str, float], peers: tuple[str, ...]
) -> list[list[str]]:
    """Return a row per case: its milliseconds, these in units of each peer's, and the MB that its layer keeps."""
    rows = []
    for name, ms in times.items():
        saved = f"{saved_bytes(by_name[name], x) / 1e6:.2f}" if name in by_name else ""
        rows.append([size, name, f"{ms:.3f}", *(f"{ms / times[peer]:.2f}" for peer in peers), saved])
    return rows


def main() -> None:
    """Measure, and report."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            for tokens in TOKENS:
                rows += measure(shape, tokens, dtype)
    conditions = [
        f"half of the weight pruned, r = {SETTINGS.lora_r}; forward and backward, the gradient of the input too",
        f"time of one thread, median of {REPEATS} interleaved turns after a warm-up; gradients checked to agree",
        "freed memory is kept, as train.py does",
        "MB: kept for the backward, beyond the layer's own tensors and its input",
        "three products: Y, dX and G",
        "W' kept: in the later micro-batches of an optimiser step; structured: half of the rows are kept",
    ]
    header = ["weight, tokens, dtype", "", "ms", "x PEFT", "x three products", "MB kept"]
    report("lora", "One step of a LoRA layer", conditions, header, rows)


if __name__ == "__main__":
    main()
