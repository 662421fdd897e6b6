"""Reconstruct decoder layers of tiny models, beside stock transformers, autograd and least squares."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sparseft.backends.torch import DenseTarget, reconstruct, trained_model
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, encode
from sparseft.language_model.experts import memory_path, unfuse_experts
from sparseft.language_model.hardware import limit_threads
from sparseft.language_model.loss import AnswerLoss, mean_answer_loss
from sparseft.language_model.model import load_model
from sparseft.lora.masked_lora import attach
from sparseft.lora.merge import merge
from sparseft.study.config import Training
from sparseft.tasks import BY_NAME
from sparseft.training import reconstruction
from sparseft.training.job import TrainingJob
from sparseft.training.reconstruction import Reconstruction, Stream
from tiny_models import TYPICAL, save_tiny
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from masks import compute_masks

CPU = torch.device("cpu")
TASK = BY_NAME["boolq_mini"]
ROWS = {"train": TASK.generate("train", 16, 0), "validation": TASK.generate("validation", 8, 0)}
# Two examples of one length and one of another, so that batches are padded.
EXAMPLES = [Example([(7 * number + start) % 250 for number in range(length)], 1) for start, length in enumerate((40, 70, 40))]
SETTINGS = Training(steps=30, batch_size=3, micro_batch_size=3, learning_rate=0.02, lora_r=8, lora_alpha=8.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Checkpoint]:
    """Return the tiny models in fp32."""
    folder = tmp_path_factory.mktemp("fp32")
    return {name: Checkpoint(save_tiny(name, folder / name, torch.float32)) for name in TYPICAL}


@pytest.fixture(params=TYPICAL)
def tiny(request, models) -> Checkpoint:
    return models[request.param]


@pytest.fixture
def tiny_llama(models) -> Checkpoint:
    return models["llama"]


def job_of(checkpoint: Checkpoint, settings: Training = SETTINGS, **changes: object) -> TrainingJob:
    """Return the job of a run at 50 % sparsity."""
    mask = compute_masks(checkpoint, "unstructured", [50], seed=0)[50]
    provenance = {"mask_sha256": "m", "mode": "reconstruct"}
    return replace(TrainingJob(checkpoint, mask, "reconstruct", 0, settings, TASK, ROWS, 8, provenance), **changes)


def run(checkpoint: Checkpoint, folder: Path, settings: Training = SETTINGS, examples: list[Example] = EXAMPLES) -> dict:
    """Reconstruct a model into folder/adapter, and return the record."""
    limit_threads(1)
    target = DenseTarget(checkpoint, examples)
    return reconstruct(job_of(checkpoint, settings), target, folder / "adapter", folder / "state.pt")


def digest(folder: Path) -> bytes:
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


def test_the_error_of_every_decoder_layer_falls(tiny, tmp_path):
    record = run(tiny, tmp_path)
    for layer in record["reconstruction"]["layers"]:
        assert 0 < layer["error_after"] < 0.9 * layer["error_before"]
        print(layer["error_before"], layer["error_after"], layer["losses"][::5])
