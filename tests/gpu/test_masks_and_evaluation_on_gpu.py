"""Masks, evaluations and throughput on the GPU beside those of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT, words_of
from sparseft.axes.tasks import BY_NAME
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.throughput import MeasuredTraining, measure
from sparseft.evaluation.throughput_record import MEASURED
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.model import load_model
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.training.settings import Throughput, Training

MAGNITUDES = ["unstructured", "structured"]
UPDATES = ["unstructured_sparsegpt", "structured_obs_on_task"]
METHODS = [*MAGNITUDES, *(f"unstructured_{name}" for name in ("gradient", "taylor", "wanda", "ria")), *UPDATES]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def masks(inputs, tmp_path_factory) -> list[Path]:
    """Return the folders of the masks of METHODS at 50 %: those of the device, and those of the CPU."""
    folders = [tmp_path_factory.mktemp("masks") for _ in range(2)]
    for folder, environment in zip(folders, ({}, {"CUDA_VISIBLE_DEVICES": ""}), strict=True):
        flags = {"model_path": inputs / "model", "output_dir": folder, "pruned_dir": folder / "pruned", "threads": 1}
        flags |= {
            "method": METHODS,
            "sparsity": 0.5,
            "task": "boolq_mini",
            "data_dir": inputs,
            "calibration_examples": 8,
        }
        command = [sys.executable, ROOT / "workflow/scripts/compute_masks.py", *words_of(flags)]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("method", METHODS)
def test_few_weights_are_ranked_otherwise_than_on_the_cpu_and_none_by_magnitudes(masks, note, method):
    ours, theirs = (read_mask(folder / f"masks_sparsity50_{method}.pt") for folder in masks)
    share = np.concatenate([(ours.kept(layer) == theirs.kept(layer)).ravel() for layer in ours.shape]).mean()
    note(f"{method}: {1 - share:.1e} of the weights differ from the CPU's mask")
    # An update carries what differs on to the next columns or channels.
    assert share >= (1 if method in MAGNITUDES else 0.98 if method in UPDATES else 0.999)


@pytest.mark.parametrize("name", ["boolq_mini", "hellaswag_mini", "gsm8k_mini"])
def test_answers_are_those_of_the_cpu_but_for_rounding(inputs, device, note, name):
    task = BY_NAME[name]
    rows = {split: task.generate(split, 24, 0) for split in ("train", "validation")}
    ours, theirs = (evaluate(*load_model(inputs / "model", place), task, rows, 5) for place in (device, CPU))
    if "generations" in ours:
        equal = np.mean([one == other for one, other in zip(ours["generations"], theirs["generations"], strict=True)])
        note(f"{name}, fp32: {equal:.2f} of the generated texts are the CPU's")
        assert equal >= 0.9
        return
    logs = [np.array([value for row in record["log_likelihoods"] for value in row]) for record in (ours, theirs)]
    gap = np.abs(logs[0] - logs[1]).max()
    note(f"{name}, fp32: log-likelihoods of up to {np.abs(logs[1]).max():.0f} nats differ from the CPU's by {gap:.1e}")
    assert gap < 1e-3
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)


def test_throughput_is_measured_on_the_device(inputs, masks, device, note):
    model, mask = Checkpoint(inputs / "model"), masks[0] / "masks_sparsity50_unstructured.pt"
    settings, asked = Training(lora_r=16), Throughput(batch_sizes=[16], warmup_steps=1, steps=2, repeats=1)
    task, rows = "boolq_mini", BY_NAME["boolq_mini"].generate("train", 64, 0)
    training = MeasuredTraining(model, mask, "sparse_to_sparse", settings, asked, task, inputs / "data", rows, 1)
    (row,) = measure(training)
    assert row["status"] == MEASURED
    kind = training.memory_record(device)["peak_memory_kind"]
    assert kind == ("allocated by torch" if device.type == "cuda" else "resident")
    (repeat,) = row["repeats"]
    rate, peak = repeat["samples"] / repeat["seconds"], repeat["peak_memory_bytes"] / 1e6
    note(f"batch size {row['batch_size']}: {rate:.1f} samples/s, {peak:.0f} MB {kind}")
    assert (repeat["cpu_share"] is None) == (device.type == "cuda")
