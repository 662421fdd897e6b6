"""Masks, evaluations and throughput on the GPU beside those of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.throughput import MeasuredTraining, measure
from sparseft.evaluation.throughput_record import MEASURED
from sparseft.language_model.model import load_model
from sparseft.masks.mask_file import read_mask
from sparseft.tasks import BY_NAME
from sparseft.training.settings import Throughput, Training

FROM_EXAMPLES = [f"unstructured_{name}" for name in ("gradient", "taylor", "wanda", "ria", "sparsegpt")]
FROM_EXAMPLES.append("structured_obs_on_task")
METHODS = ["unstructured", "structured", *FROM_EXAMPLES]
CPU = torch.device("cpu")


def compute_masks(inputs: Path, output: Path, environment: dict[str, str]) -> Path:
    """Run compute_masks.py for METHODS at 50 %, and return its folder."""
    values = {"model_path": inputs / "model", "output_dir": output, "sparsity": "0.5", "task": "boolq_mini"}
    values |= {"data_dir": inputs, "calibration_examples": 8, "threads": 1, "pruned_dir": output / "pruned"}
    words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    script = ROOT / "workflow/scripts/compute_masks.py"
    command = [sys.executable, str(script), "--method", *METHODS, *words]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def masks(inputs, tmp_path_factory) -> dict[str, Path]:
    """Return the folders of the masks: those of the device, and those of the CPU."""
    folder = tmp_path_factory.mktemp("masks")
    environments = {"device": {}, "cpu": {"CUDA_VISIBLE_DEVICES": ""}}
    return {name: compute_masks(inputs, folder / name, variables) for name, variables in environments.items()}


def equal_share(masks: dict[str, Path], method: str) -> float:
    """Return the share of weights that the device's mask keeps or prunes as the CPU's does."""
    ours, theirs = (read_mask(folder / f"masks_sparsity50_{method}.pt") for folder in masks.values())
    equal = [(ours.kept(layer) == theirs.kept(layer)).ravel() for layer in ours.shape]
    return float(np.concatenate(equal).mean())


@pytest.mark.parametrize("method", ["unstructured", "structured"])
def test_a_mask_of_magnitudes_is_that_of_the_cpu(masks, method):
    assert equal_share(masks, method) == 1


@pytest.mark.parametrize("method", FROM_EXAMPLES)
def test_few_weights_are_ranked_otherwise_than_on_the_cpu(masks, note, method):
    share = equal_share(masks, method)
    note(f"{method}: {1 - share:.1e} of the weights differ from the CPU's mask")
    # An update carries what differs on to the next columns or channels.
    assert share > (0.98 if method.endswith(("sparsegpt", "obs_on_task")) else 0.999)


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
    model, mask = Checkpoint(inputs / "model"), masks["device"] / "masks_sparsity50_unstructured.pt"
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
