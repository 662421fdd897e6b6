"""Measure time and memory of a LoRA step on a model of Llama-3-8B's shapes on a GPU: this project beside PEFT.

    python benchmarks/lora_model_gpu.py [--layers 4]

The weights are random, so nothing is downloaded. A GPU of less than 64 GB gets fewer layers, one per 2 GB. Every case
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
from typing import Literal

import torch
from bench import clock, device_of, publish
from lora_model import stepper
from peft import LoraConfig, get_peft_model
from sparseft.command import run
from sparseft.language_model.hardware import limit_threads, peak_memory, use_repeatable_kernels
from sparseft.lora.masked_lora import attach
from sparseft.study.schedule import Training
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
CASES = (PEFT, PEFT_BF16, SPARSE, DENSE)
WARM_UP = 3
STEPS = 5


def base_model(size: str, layers: int, device: torch.device) -> nn.Module:
    """Return a model with random weights in bf16, made on the device."""
    config = LlamaConfig(
        **SIZES[size],
        num_hidden_layers=layers,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        dtype=torch.bfloat16,
    )
    with torch.device(device):
        return LlamaForCausalLM._from_config(config)


def adapted(case: str, model: nn.Module) -> nn.Module:
    """Return the model with the adapters of a case. PEFT's weights are not pruned, which costs the same."""
    modules = model.model.named_modules(prefix="model")
    linears = {path: module.weight.shape for path, module in modules if isinstance(module, nn.Linear)}
    if case in (PEFT, PEFT_BF16):
        targets = sorted({path.rpartition(".")[2] for path in linears})
        config = LoraConfig(r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules=targets)
        return get_peft_model(model, config, autocast_adapter_dtype=case == PEFT).get_base_model()

    def mask(layer: str) -> Tensor:
        return torch.rand(linears[layer], device=model.device) < 0.5

    mode = "sparse_to_dense" if case == DENSE else "sparse_to_sparse"
    attach(model, mask, {path: path for path in linears}, mode, SETTINGS)
    return model


def measure(case: str, model: nn.Module, tokens: int) -> dict[str, float]:
    """Return the median milliseconds of a step and the peak memory in bytes of a case, in this process."""
    device = model.device
    limit_threads(1)
    is_peft = case in (PEFT, PEFT_BF16)
    if not is_peft:
        # As train.py does: torch's attention then has a backward that gives the same bits every time.
        use_repeatable_kernels()
    step = stepper(adapted(case, model), (1, tokens), is_peft, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(WARM_UP + STEPS):
        begin = clock(device)
        step()
        times.append(1000 * (clock(device) - begin))
    return {"ms": statistics.median(times[WARM_UP:]), "bytes": peak_memory(device)}


def measured_apart(case: str) -> dict[str, float]:
    """Return what `measure` returns, from a process of its own with the same arguments; NaN if it fails, whose error is
    printed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{case}: its process ended with code {done.returncode}", file=sys.stderr)
        return {"ms": math.nan, "bytes": math.nan}
    return json.loads(done.stdout.splitlines()[-1])


def fitting_layers(device: torch.device) -> int:
    """Return how many decoder layers a GPU holds with PEFT, the largest case: one per 2 GB, and at most the 32 of
    Llama-3-8B."""
    return min(32, torch.cuda.get_device_properties(device).total_memory // (2 * 10**9))


def rows_of(results: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Return the table's rows from the results of each case, one per turn."""
    times = {case: statistics.median(result["ms"] for result in turns) for case, turns in results.items()}
    peaks = {case: max(result["bytes"] for result in turns) for case, turns in results.items()}
    rows = []
    for case in results:
        ratios = [values[case] / values[other] for values in (times, peaks) for other in (PEFT, PEFT_BF16)]
        time_ratios, peak_ratios = ([f"{ratio:.2f}" for ratio in pair] for pair in (ratios[:2], ratios[2:]))
        rows.append([case, f"{times[case]:.1f}", *time_ratios, f"{peaks[case] / 1e9:.2f}", *peak_ratios])
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
        print(json.dumps(measure(case, base_model(size, layers, used), tokens)))
        return 0
    results: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(turns):
        for case in CASES:
            results[case].append(measured_apart(case))
    width = "Llama-3-8B's" if size == "8b" else size
    what = f"{layers} decoder layers of {width} shapes, random weights, 1 x {tokens} tokens"
    conditions = [
        f"{what}, bf16, r = {SETTINGS.lora_r} on all seven projections, half of each pruned, AdamW",
        f"a step: median of {turns} processes, each the median of {STEPS} steps after {WARM_UP}; the cases take turns",
        "GB: the most that torch allocated in the steps, with the model (on a CPU: resident)",
        "PEFT uses the loss of transformers, which keeps all logits in fp32, and torch's default kernels; sparseft uses torch's"
        " deterministic kernels",
    ]
    header = ["", "ms", "x PEFT", "x PEFT bf16", "GB", "x PEFT's", "x PEFT bf16's"]
    publish("lora_model_gpu", "One LoRA step of a whole model on a GPU", conditions, header, rows_of(results), used)
    return int(any(math.isnan(result["ms"]) for turns in results.values() for result in turns))


if __name__ == "__main__":
    run(main)
