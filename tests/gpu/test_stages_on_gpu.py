"""Every stage at the width of an 8B model, every kind of training, and a model that is larger than its device."""

from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from project import Study, laid_over
from sparseft.axes.grid import Run
from sparseft.axes.tasks import BY_NAME
from sparseft.evaluation.evaluate import evaluate
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.loss import teacher_logits
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.placement import DISK, placement
from sparseft.models.language_model.weights import unfuse_experts
from sparseft.study.planning.needs import Job
from sparseft.study.planning.requests import CUDA, Requests
from sparseft.training.lora.adapted_model import trained_model
from sparseft.training.lora.adapter import write_adapter
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Distillation, Training
from sparseft.training.trained_part import model_to_train
from tiny_models import save_tiny
from torch import Tensor, nn

from masks import compute_masks

CPU = torch.device("cpu")
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NEW = "sparse_to_sparse"
# Name -> model, dtype, method, mode and settings.
CASES = {
    "masked, fp16": ("mistral", FP16, "unstructured", NEW, {"gradient_checkpointing": True}),
    "masked, W' kept": ("llama", BF16, "unstructured", NEW, {"cache_weights": True}),
    "structured": ("llama", BF16, "structured", NEW, {}),
    "dropout": ("llama", BF16, "unstructured", "sparse_to_dense", {"lora_dropout": 0.3}),
    "taught": ("llama", FP32, "unstructured", NEW, {"distillation": Distillation(temperature=2.0)}),
    "experts": ("mixtral", FP32, "unstructured", NEW, {}),
    "all weights": ("llama", BF16, "unstructured", "full_sparse_to_sparse", {}),
}


@contextmanager
def no_waiting(device: torch.device):
    """Let an operation that waits for the GPU fail."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def gradients(folder: Path, case: str, device: torch.device) -> torch.Tensor:
    """Return all gradients of a micro-batch, on the CPU. They must be the same twice, the second time without
    waiting."""
    _, _, method, mode, changes = CASES[case]
    checkpoint, settings = Checkpoint(folder), Training(**changes)
    mask = compute_masks(checkpoint, method, [50], seed=0)[50]
    torch.manual_seed(0)
    part, _ = model_to_train(checkpoint, mask, mode, settings, device)
    for parameter in part.parameters:
        # B starts at zero, where A has no gradient.
        parameter.data.add_(0.02 * torch.randn(parameter.shape).to(device) if not parameter.any() else 0)
    batch = collate([Example(list(range(3, 60)), 20), Example(list(range(9, 90)), 50)]).to(device)
    distillation = settings.distillation
    taught = (teacher_logits(load_model(folder, device)[0], batch), distillation.temperature) if distillation else ()
    found = []
    # Experts wait once, for the number of their tokens.
    for checked in (CPU, CPU if case == "experts" else device):
        torch.manual_seed(1)
        with part.caching() if settings.cache_weights else nullcontext(), no_waiting(checked):
            part.loss(batch, *taught).sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in part.parameters]).cpu())
        part.loss.zero_grad()
    assert torch.equal(*found)
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_a_micro_batch_does_not_wait_and_its_gradients_are_those_of_the_cpu(tmp_path, save_wide, device, note, case):
    name, dtype, *_ = CASES[case]
    folder = save_wide(name, tmp_path / name, dtype)
    ours = gradients(folder, case, device)
    # A GPU draws other numbers for a dropout.
    theirs = ours if case == "dropout" else gradients(folder, case, CPU)
    error = ((ours - theirs).norm() / theirs.norm()).item()
    note(f"{case}: gradients differ from the CPU's by {error:.1e} of their norm")
    assert error < (1e-3 if dtype == FP32 else 5e-2)


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_mixture_that_stays_in_its_files_answers_as_the_whole_one(tmp_path, device, note, dtype):
    folder = save_tiny("mixtral", tmp_path / "m", dtype, {"num_hidden_layers": 4})
    models = [load_model(folder, device, rooms) for rooms in (None, {str(device): 1.0})]
    assert placement(models[1][0]) == {DISK: 4}
    for name in ("boolq_mini", "gsm8k_mini"):
        rows = {split: BY_NAME[name].generate(split, 6, 0) for split in ("train", "validation")}
        whole, placed = (evaluate(*model, BY_NAME[name], rows, 4) | {"placement": None} for model in models)
        assert placed == whole
    note(f"a mixture in its files, {dtype}: the bits of the whole one")


def test_every_stage_runs_at_the_width_of_an_8b_model_within_its_plan(tmp_path, device, note, monkeypatch):
    """On a CPU the model is tiny."""
    is_gpu = device.type == "cuda"
    wide = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    folder = save_tiny("mistral", tmp_path / "wide", BF16, wide if is_gpu else {})
    sections = {
        "tasks": {"boolq_mini": {"train_examples": 24, "validation_examples": 12, "training": {"steps": 3}}},
        "training": {"batch_size": 4, "micro_batch_size": 2, "lora_r": 16},
        "masks": {"calibration_examples": 8},
        "reconstruction": {"examples": 4, "steps": 2, "batch_size": 2},
        "resources": {"gpus": int(is_gpu)},
        "grid": {"models": ["wide"], "tasks": ["boolq_mini"], "sparsities": [50], "seeds": [0]}
        | {"methods": ["unstructured_wanda", "unstructured_sparsegpt"][not is_gpu :], "modes": [NEW, "reconstruct"]},
    }
    study = Study(tmp_path / "study")
    study.configure({"wide": folder}, **sections)
    study.snakemake("--cores", "2")
    assert {row["status"] for row in study.table()} == {"sound"}
    rows = [row for row in study.table() if row["mode"] in (NEW, "reconstruct")]
    monkeypatch.chdir(study.folder)
    requests = Requests(laid_over(yaml.safe_load((study.folder / "study.yaml").read_text())))
    for row, (stage, record) in product(rows, {"train": "train", "evaluate": "evaluation"}.items()):
        run = Run.parse(row["run_id"])
        stage = "reconstruct" if stage == "train" and run.mode == "reconstruct" else stage
        on_gpu, in_machine = requests.bytes_of(Job.of(stage, vars(run)))
        # torch counts what it allocated, and not what CUDA takes besides.
        planned = on_gpu - CUDA if is_gpu else in_machine
        peak = study.json(f"results/runs/{row['run_id']}/{record}.json")["peak_memory_bytes"]
        note(f"{stage}, {run.method}, {run.mode}: {peak / 1e9:.2f} GB, planned {planned / 1e9:.2f}")
        assert not is_gpu or peak <= planned


SETTINGS = Training(lora_r=16, lora_alpha=32.0)
IDS = torch.arange(3, 51).reshape(2, 24)


def logits_of(model: nn.Module, device: torch.device) -> Tensor:
    with torch.no_grad():
        return model(IDS.to(device)).logits.cpu()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral"])
def test_the_logits_before_and_after_the_merge_are_equal_to_the_bit(tmp_path, save_wide, device, note, name, dtype):
    base = Checkpoint(save_wide(name, tmp_path / "base", dtype))
    mask = compute_masks(base, "unstructured", [50], seed=0)[50]
    torch.manual_seed(0)
    part, _ = model_to_train(base, mask, "sparse_to_sparse", SETTINGS, device)
    for layer in part.layers.values():
        nn.init.normal_(layer.lora_B, std=0.02)
    provenance = {"mask_sha256": "m", "mode": "sparse_to_sparse"}
    factors = {name: layer.factors() for name, layer in part.layers.items()}
    write_adapter(tmp_path / "adapter", factors, SETTINGS, base="base", sparseft=provenance)
    record = merge(base, mask, "m", tmp_path / "adapter", tmp_path / "merged")
    merged, _ = load_model(tmp_path / "merged", device)
    # The fused product of gate and up may be rounded in another way.
    unfuse_experts(merged)
    before = logits_of(part.loss.model, device)
    # Expert layers are fused in the merged file, so the record promises nothing for them.
    assert record["as_trained"] == (name != "mixtral")
    assert torch.equal(before, logits_of(merged, device))
    reread, _, _ = trained_model(base, mask, "m", tmp_path / "adapter", device)
    assert torch.equal(before, logits_of(reread, device))
    pruned, _ = load_model(base.folder, device)
    assert (before - logits_of(pruned, device)).abs().max() > 0.05
    cpu, _, _ = trained_model(base, mask, "m", tmp_path / "adapter", torch.device("cpu"))
    gap = (before - logits_of(cpu, torch.device("cpu"))).abs().max() / before.float().std()
    note(f"logits of {name} in {dtype}: the largest difference from the CPU is {gap:.1e} of their standard deviation")
