"""Measure time and memory of a LoRA step on a whole pruned model: this project beside PEFT and plain autograd.

    python benchmarks/lora_model.py models/smollm2

This takes about five minutes for SmolLM2-135M. The table is printed and written to benchmarks/results/lora_model.md.
All cases are timed in turns in one process. The peak memory of each case is measured in a process of its own.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench import CPU, interleaved, report
from lora import NaiveMaskedLoRA
from peft import LoraConfig, get_peft_model
from sparseft.axes.architectures import PROJECTIONS
from sparseft.common.command import run
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.hardware import keep_freed_memory, peak_memory
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.model import load_model
from sparseft.training.lora.carried_mask import carried_mask
from sparseft.training.lora.masked_lora import attach
from sparseft.training.settings import Training
from torch import Tensor, nn

BATCH = 4
TOKENS = 128
REPEATS = 5
SPARSITIES = (50, 90)
SETTINGS = Training(lora_r=16, lora_alpha=32.0)
PEFT = "PEFT, dense"
DENSE = "sparseft: sparse_to_dense"
NAIVE = "autograd: masked, as written"
MASKED = [f"sparseft: sparse_to_sparse, {percent} % pruned" for percent in SPARSITIES]
STRUCTURED = "sparseft: sparse_to_sparse, structured 50 %"
CASES = (PEFT, DENSE, STRUCTURED, NAIVE, *MASKED)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def masks(case: str, shape: tuple[int, int]) -> Tensor:
    """Return a random mask, bool (out, in), which keeps whole rows in the structured case."""
    if case == STRUCTURED:
        return (torch.rand(shape[0], 1) < 0.5).expand(shape)
    percent = SPARSITIES[1] if case == MASKED[1] else SPARSITIES[0]
    return torch.rand(shape) >= percent / 100


def model_of(case: str, folder: Path, dtype: torch.dtype) -> nn.Module:
    """Return the model with the adapters of a case. PEFT's weights are not pruned, which costs the same."""
    model = load_model(folder, CPU)[0].to(dtype)
    if case == PEFT:
        targets = [name for name in PROJECTIONS if name.endswith("proj")]
        config = LoraConfig(r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules=targets)
        return get_peft_model(model, config).get_base_model()
    shapes = prunable_shapes(Checkpoint(folder))
    mode = "sparse_to_dense" if case == DENSE else "sparse_to_sparse"
    layers = attach(model, lambda layer: masks(case, shapes[layer]), {layer: layer for layer in shapes}, mode, SETTINGS)
    if case == NAIVE:
        for path, layer in layers.items():
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, NaiveMaskedLoRA(layer, carried_mask(layer.weight)))
    return model


def stepper(
    model: nn.Module, size: tuple[int, int], uses_transformers_loss: bool, device: torch.device = CPU
) -> Callable[[], None]:
    """Return a function that makes one step of AdamW on random tokens (batch, length), all of them answers."""
    ids = torch.randint(model.config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    batch = collate([Example(row, 1) for row in ids.tolist()]).to(device)
    ids = ids.to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()

    def step() -> None:
        loss = (
            model(ids, labels=ids, use_cache=False).loss if uses_transformers_loss else AnswerLoss(model)(batch).mean()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_of(case: str, folder: Path, dtype: torch.dtype) -> Callable[[], None]:
    """Return the step of a case. PEFT and plain autograd use the loss of transformers."""
    return stepper(model_of(case, folder, dtype), (BATCH, TOKENS), case in (PEFT, NAIVE))


def own_peak(case: str, folder: Path, kind: str) -> float:
    """Return the peak memory in MB of a process that loads the model and makes three steps."""
    command = [sys.executable, __file__, str(folder), "--case", case, "--dtype", kind]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6


def measured(folder: Path) -> Iterator[list[str]]:
    """Yield the rows of the table."""
    for kind, dtype in DTYPES.items():
        steps = {case: step_of(case, folder, dtype) for case in CASES}
        times = interleaved(steps, REPEATS)
        peaks = {case: own_peak(case, folder, kind) for case in CASES}
        for case, ms in times.items():
            peak = peaks[case]
            yield [kind, case, f"{ms:.0f}", f"{ms / times[PEFT]:.2f}", f"{peak:.0f}", f"{peak / peaks[PEFT]:.2f}"]


def main(model_path: Path, *, case: str | None = None, dtype: str = "bf16") -> None:
    """Measure every case and report, or only print the peak memory of one.

    Args:
        model_path: a prepared model folder
        case: only print the peak memory of this case, in bytes
        dtype: number format of --case
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    if case:
        step = step_of(case, model_path, DTYPES[dtype])
        for _ in range(3):
            step()
        print(peak_memory(CPU))
        return
    rows = list(measured(model_path))
    conditions = [
        f"{model_path.name}, {BATCH} x {TOKENS} tokens, r = {SETTINGS.lora_r} on every prunable layer, fp32"
        " adapters, AdamW",
        f"time of one thread, median of {REPEATS} interleaved turns after a warm-up",
        "freed memory is kept, as train.py does",
        "MB: the largest resident set of a process that makes three steps of this case alone",
    ]
    report(
        "lora_model",
        "One LoRA step of a whole model",
        conditions,
        ["dtype", "", "ms", "x PEFT", "MB", "x PEFT's"],
        rows,
    )


if __name__ == "__main__":
    run(main)
