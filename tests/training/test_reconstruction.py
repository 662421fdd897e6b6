"""Reconstruct decoder layers of tiny models, beside stock transformers, autograd and least squares."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sparseft.axes.tasks import BY_NAME
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.hardware import limit_threads
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.weights import memory_path
from sparseft.training.job import TrainingJob
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Training
from sparseft.training.trainers.torch import reconstruct
from tiny_models import edited, save_tiny, stock
from torch import Tensor, nn
from torch.nn import functional as F

from masks import compute_masks, read_float32

CPU = torch.device("cpu")
TASK = BY_NAME["boolq_mini"]
ROWS = {"train": TASK.generate("train", 16, 0), "validation": TASK.generate("validation", 8, 0)}
# Two examples of one length and one of another, so that batches are padded.
EXAMPLES = [Example([(7 * n + start) % 250 for n in range(length)], 1) for start, length in enumerate((40, 70, 40))]
SETTINGS = Training(steps=30, batch_size=3, micro_batch_size=3, learning_rate=0.02, lora_r=8, lora_alpha=8.0)


def job_of(checkpoint: Checkpoint, folder: Path = Path("unused"), **changes: object) -> TrainingJob:
    """Return the job of a run at 50 % sparsity, whose adapter comes to folder/adapter."""
    mask = compute_masks(checkpoint, "unstructured", [50], seed=0)[50]
    provenance = {"mask_sha256": "m", "mode": "reconstruct"}
    job = TrainingJob(checkpoint, mask, "reconstruct", 0, SETTINGS, TASK, ROWS, 8, folder / "adapter", provenance)
    return replace(job, **changes)


def run(base: Checkpoint, folder: Path) -> dict:
    limit_threads(1)
    return reconstruct(job_of(base, folder), EXAMPLES, folder / "state.pt")


def merged_weights(checkpoint: Checkpoint, folder: Path, number: int) -> dict[str, Tensor]:
    """Return (W + s B A) * M of the layers of one decoder layer, in plain algebra, by their names in the decoder
    layer."""
    factors = load_file(folder / "adapter/adapter_model.safetensors")
    job = job_of(checkpoint)
    weights = {}
    for layer in job.mask.shape:
        prefix = f"model.layers.{number}."
        if layer.startswith(prefix):
            A, B = (factors[f"base_model.model.{layer}.lora_{name}.weight"] for name in "AB")
            W = torch.from_numpy(read_float32(checkpoint, f"{layer}.weight"))
            name = memory_path(checkpoint.architecture, layer).removeprefix(prefix)
            scale = SETTINGS.lora_alpha / SETTINGS.lora_r
            weights[f"{name}.weight"] = (W + scale * B @ A) * torch.from_numpy(job.mask.kept(layer))
    return weights


def outputs_of(model: nn.Module, number: int) -> Tensor:
    """Return the outputs of a decoder layer for every real token of EXAMPLES, from whole forward passes, (tokens,
    H)."""
    outputs = []
    handle = model.model.layers[number].register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    with torch.no_grad():
        for example in EXAMPLES:
            model(torch.tensor([example.ids]), use_cache=False)
    handle.remove()
    return torch.cat([output.flatten(0, -2) for output in outputs])


@pytest.mark.long
@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma3"])
def test_the_error_is_that_of_a_layer_on_the_outputs_of_the_reconstructed_ones(name, tmp_path):
    """The two models differ in one decoder layer, so they give it the same inputs. The decoder layers of Gemma 3 differ
    in their windows and rotary angles."""
    tiny = Checkpoint(save_tiny(name, tmp_path / name, torch.float32))
    measured = run(tiny, tmp_path)["reconstruction"]["layers"]
    ours, dense = stock(tiny.folder), stock(tiny.folder)
    for number, layer in enumerate(measured):
        ours.model.layers[number].load_state_dict(merged_weights(tiny, tmp_path, number), strict=False)
        error = F.mse_loss(outputs_of(ours, number), outputs_of(dense, number)).item()
        assert layer["error_after"] == pytest.approx(error, rel=1e-3)
        dense.model.layers[number].load_state_dict(ours.model.layers[number].state_dict())


@pytest.mark.long
def test_the_first_error_is_that_of_the_pruned_layer_and_the_steps_lower_it(tiny, tmp_path):
    record = run(tiny, tmp_path)
    pruned = stock(tiny.folder)
    dense = outputs_of(pruned, 0)
    kept = job_of(tiny).mask.kept
    for layer in job_of(tiny).mask.shape:
        weight = pruned.get_submodule(memory_path(tiny.architecture, layer)).weight
        weight.data *= torch.from_numpy(kept(layer))
    first, *_ = layers = record["reconstruction"]["layers"]
    assert first["error_before"] == pytest.approx(F.mse_loss(outputs_of(pruned, 0), dense).item(), rel=1e-4)
    for layer in layers:
        assert layer["error_after"] < 0.5 * layer["error_before"]
        # A step has every example, and the first one has learning rate 0.
        assert layer["losses"][0] == pytest.approx(1)
    means = [sum(losses) / len(layers) for losses in zip(*(layer["losses"] for layer in layers), strict=True)]
    assert [point["loss"] for point in record["loss_curve"]] == pytest.approx(means)
    assert record["train_seconds"] == pytest.approx(sum(layer["seconds"] for layer in layers))


@pytest.mark.long
def test_a_base_with_weights_of_its_own_is_reconstructed_to_the_dense_model(tiny_llama, tmp_path):
    """The two have the same weights outside the mask, as after a pruning that also changes the weights that it
    keeps."""
    dense = Checkpoint(tiny_llama.folder)
    job = job_of(dense, folder=tmp_path)
    base = Checkpoint(shutil.copytree(dense.folder, tmp_path / "base"))
    with edited(base.folder) as tensors:
        for layer in job.mask.shape:
            tensors[f"{layer}.weight"] *= 1.2 * torch.from_numpy(job.mask.kept(layer))
    record = reconstruct(replace(job, checkpoint=base, teacher=dense), EXAMPLES, tmp_path / "state.pt")
    models = [load_model(checkpoint.folder, CPU)[0] for checkpoint in (base, dense)]
    first, second = record["reconstruction"]["layers"]
    assert first["error_before"] == pytest.approx(F.mse_loss(*(outputs_of(own, 0) for own in models)).item(), rel=1e-4)
    assert second["error_after"] < 0.5 * second["error_before"]


def test_a_mask_that_prunes_nothing_leaves_the_model_as_it_is(tiny_llama, tmp_path):
    job = job_of(tiny_llama, folder=tmp_path, mask=compute_masks(tiny_llama, "unstructured", [0])[0])
    record = reconstruct(job, EXAMPLES, tmp_path / "state.pt")
    assert [layer["error_after"] for layer in record["reconstruction"]["layers"]] == [0, 0]
    merge(tiny_llama, job.mask, "m", tmp_path / "adapter", tmp_path / "merged")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", tiny_llama.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
