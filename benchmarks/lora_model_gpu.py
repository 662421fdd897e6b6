"""Measure time and memory on a model of Llama-3-8B's shapes on a GPU: LoRA steps of this project beside PEFT, an
evaluation and a calibration.

    python benchmarks/lora_model_gpu.py [--layers 4]

The weights are random, so nothing is downloaded. The calibration writes them, 16 GB of 32 layers, into models/ for its
time. A GPU of less than 64 GB gets fewer layers, one per 2 GB. Every case
runs in a process of its own, in turns, so that its peak memory is its own. The table is printed and written to
benchmarks/results/. A case that fails has no figures in it, and the exit code is 1 then.

Without a GPU it ends with one line and code 1. `--device cpu --layers 1 --size tiny --tokens 16 --turns 1` shows that
the program works.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from accelerate import init_empty_weights
from bench import clock, device_of, interleaved, publish
from lora_model import stepper
from peft import LoraConfig, get_peft_model
from sparseft.axes.importances.wanda import INPUT_NORMS
from sparseft.common.command import run
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.hardware import limit_threads, peak_memory, use_repeatable_kernels
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.weights import divide
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.training.lora.masked_lora import LoRALinear, attach
from sparseft.training.settings import Training
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

# Of the configuration of meta-llama/Meta-Llama-3-8B. "tiny" is for a CPU, where nothing is measured that counts.
SIZES = {
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
}
SETTINGS = Training(lora_r=16, lora_alpha=32.0)
PEFT = "PEFT, defaults (fp32 adapters)"
PEFT_BF16 = "PEFT, bf16 adapters"
SPARSE = "sparseft: sparse_to_sparse, exact"
DENSE = "sparseft: sparse_to_dense"
SHORT = "sparse_to_sparse, 4 texts of a quarter of the tokens"
ACCUMULATED = "sparse_to_sparse, 4 micro-batches"
KEPT = "sparse_to_sparse, 4 micro-batches, cache_weights"
OFFLOADED = "sparse_to_sparse, weights in the machine (shard_model)"
EVALUATED = "evaluation loss"
CALIBRATED = "calibration of wanda, from files"
CASES = (PEFT, PEFT_BF16, SPARSE, DENSE, SHORT, ACCUMULATED, KEPT, OFFLOADED, EVALUATED, CALIBRATED)
# What is measured in several processes.
REPEATED = CASES[:4]
# Products of a whole weight with all tokens: forward, the gradient of the input, and in an exact masked step G.
PRODUCTS = dict.fromkeys(CASES, 3) | {PEFT: 2, PEFT_BF16: 2, DENSE: 2, EVALUATED: 1, CALIBRATED: 1}
MODELS = Path(__file__).parents[1] / "models"
WARM_UP = 3
STEPS = 5


def base_model(case: str, size: str, layers: int, device: torch.device) -> nn.Module:
    """Return a model with random weights in bf16, made on the device. Without weights, if they will not be there."""
    config = LlamaConfig(
        **SIZES[size],
        num_hidden_layers=layers,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        dtype=torch.bfloat16,
    )
    with init_empty_weights(include_buffers=False) if case == OFFLOADED else torch.device(device):
        return LlamaForCausalLM._from_config(config)


def adapted(case: str, model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with the adapters of a case. PEFT's weights are not pruned, which costs the same."""
    modules = model.model.named_modules(prefix="model")
    linears = {path: module.weight.shape for path, module in modules if isinstance(module, nn.Linear)}
    if case in (PEFT, PEFT_BF16):
        targets = sorted({path.rpartition(".")[2] for path in linears})
        config = LoraConfig(r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules=targets)
        return get_peft_model(model, config, autocast_adapter_dtype=case == PEFT).get_base_model()

    def mask(layer: str) -> Tensor:
        return torch.rand(linears[layer], device=device) < 0.5

    mode = "sparse_to_dense" if case == DENSE else "sparse_to_sparse"
    attach(model, mask, {path: path for path in linears}, mode, SETTINGS)
    return model


def offload(loss: AnswerLoss, device: torch.device) -> None:
    """Divide a model on "meta" with adapters for one process, and give it random weights in the machine's memory."""
    divide(loss, device, 1)
    frozen = [parameter for parameter in loss.parameters() if not parameter.requires_grad]
    noise = 0.02 * torch.randn(max(parameter.numel() for parameter in frozen), dtype=torch.bfloat16)
    for module in loss.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                weight = torch.empty_like(parameter, device="cpu")
                weight.to_local().copy_(noise[: parameter.numel()].view_as(weight.to_local()))
                module.load_state_dict({name: weight}, strict=False, assign=True)


def own_step(case: str, model: nn.Module, tokens: int, device: torch.device) -> Callable[[], object]:
    """Return a function that does what a case of this project measures."""
    sequences = 4 if case == SHORT else 1
    ids = torch.randint(model.config.vocab_size, (sequences, tokens // sequences))
    examples = [Example(row, 1) for row in ids.tolist()]
    if case == CALIBRATED:
        # Not in the folder of the system, which may be in memory. It is removed when the function below is.
        MODELS.mkdir(exist_ok=True)
        written = tempfile.TemporaryDirectory(dir=MODELS)
        model.save_pretrained(written.name)
        # A new calibration each time, because one keeps its results.
        return lambda: ExampleCalibration(lambda _: examples, {}).compute(Checkpoint(Path(written.name)), INPUT_NORMS)
    batch = collate(examples).to(device)
    loss = AnswerLoss(model)
    if case == EVALUATED:
        return torch.no_grad()(lambda: loss(batch).mean().item())
    if case == OFFLOADED:
        offload(loss, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()
    workspace = next(module.workspace for module in model.modules() if isinstance(module, LoRALinear))

    def step() -> None:
        with workspace.caching() if case == KEPT else nullcontext():
            for _ in range(micro_batches(case)):
                loss(batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def micro_batches(case: str) -> int:
    """Return the number of micro-batches of a step."""
    return 4 if case in (ACCUMULATED, KEPT) else 1


def measure(case: str, size: str, layers: int, tokens: int, device: torch.device) -> dict[str, float]:
    """Return the median milliseconds of a case, its peak memory in bytes, and its tokens and operations per second, in
    this process."""
    limit_threads(1)
    model = base_model(case, size, layers, device)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    if case != CALIBRATED:
        model = adapted(case, model, device)
    if case in (PEFT, PEFT_BF16):
        step = stepper(model, (1, tokens), uses_transformers_loss=True, device=device)
    else:
        # As train.py does: torch's attention then has a backward that gives the same bits every time.
        use_repeatable_kernels()
        step = own_step(case, model, tokens, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(WARM_UP + STEPS):
        begin = clock(device)
        step()
        times.append(1000 * (clock(device) - begin))
    ms = statistics.median(times[WARM_UP:])
    rate = 1000 * tokens * micro_batches(case) / ms
    operations = 2 * PRODUCTS[case] * weights * rate
    return {"ms": ms, "bytes": peak_memory(device), "tokens": rate, "operations": operations}


def reached(device: torch.device) -> float:
    """Return the operations per second that a product of two large bf16 matrices reaches."""
    side = 8192 if device.type == "cuda" else 64
    left, right = torch.randn(2, side, side, dtype=torch.bfloat16, device=device)
    return 2 * side**3 / interleaved({"product": lambda: left @ right}, 3, device)["product"] * 1000


def measured_apart(case: str) -> dict[str, float]:
    """Return what `measure` returns, from a process of its own with the same arguments; NaN if it fails, whose error is
    printed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{case}: its process ended with code {done.returncode}", file=sys.stderr)
        return dict.fromkeys(("ms", "bytes", "tokens", "operations"), math.nan)
    return json.loads(done.stdout.splitlines()[-1])


def fitting_layers(device: torch.device) -> int:
    """Return how many decoder layers a GPU holds with PEFT, the largest case: one per 2 GB, and at most the 32 of
    Llama-3-8B."""
    return min(32, torch.cuda.get_device_properties(device).total_memory // (2 * 10**9))


def rows_of(results: dict[str, list[dict[str, float]]], reached: float) -> list[list[str]]:
    """Return the table's rows from the results of each case, one per turn. `reached` are operations per second."""
    found = {
        case: {key: statistics.median(result[key] for result in turns) for key in turns[0]}
        for case, turns in results.items()
    }
    rows = []
    for case, own in found.items():
        slower = [f"{found[other]['tokens'] / own['tokens']:.2f}" for other in (PEFT, PEFT_BF16)]
        larger = [f"{own['bytes'] / found[other]['bytes']:.2f}" for other in (PEFT, PEFT_BF16)]
        share = f"{100 * own['operations'] / reached:.0f}"
        figures = [f"{own['ms']:.1f}", f"{own['tokens']:.0f}", share, *slower, f"{own['bytes'] / 1e9:.2f}", *larger]
        rows.append([case, *figures])
    return rows


def main(
    *,
    device: str = "cuda",
    layers: int | None = None,
    size: Literal["8b", "tiny"] = "8b",
    tokens: int = 2048,
    turns: int = 3,
    case: str | None = None,
) -> int:
    """Measure every case and report, or only print the result of one.

    Args:
        device: cuda; cpu only shows that the program works
        layers: decoder layers; Llama-3-8B has 32; as many as the GPU holds if not given
        size: width of the layers
        tokens: tokens per step, one sequence
        turns: processes per case
        case: only print the result of this case, as JSON
    """
    used = device_of(device)
    torch.manual_seed(0)
    layers = layers or fitting_layers(used)
    if case:
        print(json.dumps(measure(case, size, layers, tokens, used)))
        return 0
    results: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for turn in range(turns):
        for case in CASES if turn == 0 else REPEATED:
            results[case].append(measured_apart(case))
    width = "Llama-3-8B's" if size == "8b" else size
    what = f"{layers} decoder layers of {width} shapes, random weights, 1 x {tokens} tokens"
    conditions = [
        f"{what}, bf16, r = {SETTINGS.lora_r} on all seven projections, half of each pruned, AdamW",
        f"ms: median of {STEPS} steps after {WARM_UP}; of the first {len(REPEATED)} cases, the median of"
        f" {turns} processes, in turns",
        "% of peak: operations of the products with whole weights, of those that a product of 8,192 x 8,192"
        " matrices reaches",
        "x PEFT: time per token",
        "GB: the most that torch allocated in the steps, with the model (on a CPU: resident)",
        "PEFT uses the loss of transformers, which keeps all logits in fp32, and torch's default kernels;"
        " sparseft uses torch's deterministic kernels",
    ]
    header = ["", "ms", "tokens/s", "% of peak", "x PEFT", "x PEFT bf16", "GB", "x PEFT's", "x PEFT bf16's"]
    rows = rows_of(results, reached(used))
    publish("lora_model_gpu", "LoRA steps of a whole model on a GPU", conditions, header, rows, used)
    return int(any(math.isnan(result["ms"]) for turns in results.values() for result in turns))


if __name__ == "__main__":
    run(main)
