"""One step of a LoRA layer on a pruned weight, forward and backward: this project beside PEFT and plain autograd.

    python benchmarks/lora.py [--device cuda]

Takes about three minutes; prints the table and writes benchmarks/results/lora.md. The whole model: lora_model.py.
"""

import argparse
from collections.abc import Callable

import torch
from bench import interleaved, report
from peft import LoraConfig, get_peft_model
from sparseft.lora.effective_weight import Workspace
from sparseft.lora.masked_lora import LoRALinear, MaskedLoRALinear, StructuredLoRALinear
from sparseft.study.config import Training
from torch import Tensor, nn
from torch.nn import functional as F

SHAPES, TOKENS = ((2048, 2048), (1536, 576)), (256, 1024)  # (out, in); the second is gate_proj of SmolLM2-135M
SETTINGS, REPEATS = Training(lora_r=16, lora_alpha=32.0), 9
STRAIGHT = SETTINGS.model_copy(update={"gradient": "straight_through"})
PEFT, FLOOR, CACHED = "PEFT: lora.Linear, dense", "three products of this size alone", "sparseft: masked, W' kept"


class NaiveMaskedLoRA(nn.Module):
    """y = x ((W + s B A) * M)^T, as it is written, over a LoRA layer's tensors; autograd keeps what it likes."""

    def __init__(self, layer: LoRALinear, kept: Tensor) -> None:
        super().__init__()
        self.weight, self.lora_A, self.lora_B, self.scale = layer.weight, layer.lora_A, layer.lora_B, layer.scale
        self.register_buffer("kept", kept)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight + (self.scale * self.lora_B @ self.lora_A).to(x.dtype)) * self.kept)


def peft_layer(weight: Tensor) -> nn.Module:
    """PEFT's layer over `weight`, with fp32 adapters, as get_peft_model makes it."""
    linear = linear_of(weight)
    config = LoraConfig(r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules=["0"])
    return get_peft_model(nn.Sequential(linear), config).base_model.model[0]


def linear_of(weight: Tensor) -> nn.Linear:
    """A linear over a copy of `weight`."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device=weight.device)
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return linear


def layers(weight: Tensor, kept: Tensor) -> dict[str, nn.Module]:
    """The layers to compare on one weight. The structured one has a mask of its own: half of the rows."""
    rows = kept[:, :1].expand_as(kept)

    def ours(kind: type[LoRALinear], mask: Tensor, settings: Training = SETTINGS) -> LoRALinear:
        return kind.from_linear(linear_of(weight), mask, settings, Workspace())

    return {
        PEFT: peft_layer(weight * kept),
        "sparseft: dense": ours(LoRALinear, kept),
        "sparseft: structured": ours(StructuredLoRALinear, rows),
        "autograd: masked, as written": NaiveMaskedLoRA(ours(LoRALinear, kept), kept),
        "sparseft: masked": ours(MaskedLoRALinear, kept),
        CACHED: ours(MaskedLoRALinear, kept),
        "sparseft: masked, straight-through": ours(MaskedLoRALinear, kept, STRAIGHT),
    }


def step(layer: nn.Module, x: Tensor, dy: Tensor, cached: bool = False) -> Callable[[], None]:
    """Forward and backward, the input's gradient among the results, as inside a network.

    `cached`: W' was built before, as in the later micro-batches of an optimiser step."""

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

    if cached:
        layer.workspace.freeze()
    return run


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that a forward keeps for its backward beyond the layer's own tensors and its input."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *layer.parameters(), *layer.buffers())}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t}), lambda _: _
    ):
        layer(x)
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)


def check_gradients(found: dict[str, nn.Module], x: Tensor, dy: Tensor) -> None:
    """The exact masked layers agree with autograd, the dense one with PEFT, for the same A and B."""
    r, bound = SETTINGS.lora_r, 2e-2 if x.dtype == torch.bfloat16 else 1e-4
    A, B = (
        torch.randn(r, x.shape[1], device=x.device) / x.shape[1] ** 0.5,
        torch.randn(dy.shape[1], r, device=x.device) / 10,
    )
    gradients = {}
    for name, layer in found.items():
        for key, value in layer.named_parameters():
            value.data.copy_(A if "lora_A" in key else B if "lora_B" in key else value.data)
        step(layer, x, dy, name == CACHED)()
        lora = {key[:6]: value.grad.float() for key, value in layer.named_parameters() if "lora_" in key}
        gradients[name] = [*lora.values(), x.grad.float()]
    naive, masked = "autograd: masked, as written", "sparseft: masked"
    for one, other in ((PEFT, "sparseft: dense"), (naive, masked), (naive, CACHED)):
        for ours, theirs in zip(gradients[one], gradients[other], strict=True):
            if not (ours - theirs).norm() < bound * theirs.norm():
                raise SystemExit(f"{one} and {other} have different gradients")


def measure(shape: tuple[int, int], tokens: int, dtype: torch.dtype, device: torch.device) -> list[list[str]]:
    """The rows of one size."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).mul_(0.05).to(device, dtype)
    kept = (torch.rand(shape, generator=generator) < 0.5).to(device)
    x = torch.randn(tokens, shape[1]).to(device, dtype).requires_grad_()
    dy = torch.randn(tokens, shape[0]).to(device, dtype)
    found = layers(weight, kept)
    check_gradients(found, x, dy)
    cases = {name: step(layer, x, dy, name == CACHED) for name, layer in found.items()}
    plain = x.detach()
    cases[FLOOR] = lambda: (plain @ weight.T, dy @ weight, dy.T @ plain)
    times = interleaved(cases, REPEATS, device)
    size = f"{shape[0]} x {shape[1]}, {tokens}, {str(dtype).removeprefix('torch.')}"
    return [
        [size, name, f"{ms:.2f}", f"{ms / times[PEFT]:.2f}", f"{ms / times[FLOOR]:.2f}",
         f"{saved_bytes(found[name], x) / 1e6:.2f}" if name in found else ""]
        for name, ms in times.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    device = parser.parse_args().device
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            for tokens in TOKENS:
                rows += measure(shape, tokens, dtype, device)
    conditions = [
        f"half of the weight pruned, r = {SETTINGS.lora_r}; forward and backward, the gradient of the input too",
        f"time of one thread (a GPU's: of the GPU), median of {REPEATS} interleaved turns after a warm-up; gradients checked to agree",
        "MB: kept for the backward, beyond the layer's own tensors and its input",
        "W' kept: in the later micro-batches of an optimiser step; structured: half of the rows are kept",
    ]
    header = ["weight, tokens, dtype", "", "ms", "x PEFT", "x three products", "MB kept"]
    report("lora", "One step of a LoRA layer", conditions, header, rows, device)


if __name__ == "__main__":
    main()
