"""One step of a LoRA layer on a pruned weight, forward and backward: this project beside PEFT and plain autograd.

    python benchmarks/lora.py

Takes about half a minute; prints the table and writes benchmarks/results/lora.md.
"""

from collections.abc import Callable

import torch
from bench import interleaved, report
from peft import LoraConfig, get_peft_model
from sparseft.lora.masked_lora import LoRALinear, MaskedLoRALinear, keep_bits
from torch import Tensor, nn
from torch.nn import functional as F

OUT, IN, TOKENS, R, ALPHA = 1536, 576, 256, 8, 16.0  # gate_proj of SmolLM2-135M
REPEATS = 15
PEFT = "PEFT: lora.Linear, dense"


class NaiveMaskedLoRA(LoRALinear):
    """y = x ((W + s B A) * M)^T, as it is written; autograd keeps what it likes."""

    def __init__(self, weight: Tensor, kept: Tensor) -> None:
        super().__init__(weight, keep_bits(kept), R, ALPHA / R)
        self.register_buffer("kept", kept)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight + (self.scale * self.lora_B @ self.lora_A).to(x.dtype)) * self.kept)


def peft_layer(weight: Tensor) -> nn.Module:
    """PEFT's layer over `weight`, with fp32 adapters, as get_peft_model makes it."""
    linear = nn.Linear(IN, OUT, bias=False, dtype=weight.dtype)
    linear.weight.data = weight.clone()
    model = get_peft_model(nn.Sequential(linear), LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["0"]))
    return model.base_model.model[0]


def layers(dtype: torch.dtype) -> dict[str, nn.Module]:
    """The layers to compare, on one weight with half of it pruned."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OUT, IN, generator=generator).mul_(0.05).to(dtype)
    kept = torch.rand(OUT, IN, generator=generator) < 0.5
    keep = keep_bits(kept)
    return {
        PEFT: peft_layer(weight * kept),
        "sparseft: LoRALinear, dense": LoRALinear(weight, keep, R, ALPHA / R),
        "autograd: masked, as written": NaiveMaskedLoRA(weight, kept),
        "sparseft: MaskedLoRALinear, masked": MaskedLoRALinear(weight, keep, R, ALPHA / R),
    }


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """Forward and backward, the input's gradient among the results, as inside a network."""

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

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


def check_gradients(found: dict[str, nn.Module], x: Tensor, dy: Tensor, bound: float) -> None:
    """The masked layers agree with each other, the dense ones with PEFT, for the same A and B."""
    A, B = torch.randn(R, IN) / IN**0.5, torch.randn(OUT, R) / 10
    gradients = {}
    for name, layer in found.items():
        for key, value in layer.named_parameters():
            value.data.copy_(A if "lora_A" in key else B if "lora_B" in key else value.data)
        step(layer, x, dy)()
        lora = {key[:6]: value.grad.float() for key, value in layer.named_parameters() if "lora_" in key}
        gradients[name] = [*lora.values(), x.grad.float()]
    names = list(found)
    for one, other in (names[:2], names[2:]):
        for ours, theirs in zip(gradients[one], gradients[other], strict=True):
            if not (ours - theirs).norm() < bound * theirs.norm():
                raise SystemExit(f"{one} and {other} have different gradients")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns: dict[str, list[str]] = {}
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        x = torch.randn(TOKENS, IN).to(dtype).requires_grad_()
        dy = torch.randn(TOKENS, OUT).to(dtype)
        found = layers(dtype)
        check_gradients(found, x, dy, bound)
        weight, plain = found[PEFT].base_layer.weight.data, x.detach()
        cases = {name: step(layer, x, dy) for name, layer in found.items()}
        cases["limit: the three products alone"] = lambda w=weight, x=plain, d=dy: (x @ w.T, d @ w, d.T @ x)
        times = interleaved(cases, REPEATS)
        for name, ms in times.items():
            saved = f"{saved_bytes(found[name], x) / 1e6:.2f}" if name in found else ""
            columns.setdefault(name, []).extend([f"{ms:.2f}", f"{ms / times[PEFT]:.2f}", saved])
    conditions = [
        f"weight {OUT} x {IN}, half of it pruned, r = {R}, {TOKENS} tokens; forward and backward, gradient of the input too",
        f"CPU time of one thread, median of {REPEATS} interleaved turns after a warm-up; gradients checked to agree",
        "MB: kept for the backward, beyond the layer's own tensors and its input",
    ]
    header = ["", *(f"{kind} {unit}" for kind in ("fp32", "bf16") for unit in ("ms", "x PEFT", "MB"))]
    report("lora", "One step of a LoRA layer", conditions, header, [[name, *cells] for name, cells in columns.items()])


if __name__ == "__main__":
    main()
