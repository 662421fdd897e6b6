"""The torch backend: a Hugging Face model with LoRA layers, on a CPU or on GPUs, in one process or several."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.config import Training
from sparseft.errors import InputError
from sparseft.lora.adapter import write_adapter
from sparseft.lora.experts import memory_path, unfuse_experts
from sparseft.lora.masked_lora import LoRALinear, attach
from sparseft.pruning.mask_ops import Mask
from sparseft.tasks.task import Row, Task
from sparseft.training.batches import encode
from sparseft.training.hardware import device_name, peak_memory, versions
from sparseft.training.loop import Loop
from sparseft.training.model import load_model


@dataclass(frozen=True)
class Job:
    """What is trained: one run. `provenance` goes into adapter_config.json, `rows` are the examples by split."""

    checkpoint: Checkpoint
    mask: Mask
    mode: str
    seed: int
    settings: Training
    task: Task
    rows: dict[str, list[Row]]
    provenance: dict

    @property
    def identity(self) -> str:
        """What must agree for a saved state to be gone on from: everything that decides the adapter's bits."""
        threads = torch.get_num_threads()
        parts = [self.settings.model_dump(), self.mode, self.seed, self.provenance, self.rows, versions(), threads]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """A model with its trained adapters, and train.json's measured content."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    layers: dict[str, LoRALinear]
    record: dict


def adapted_model(
    checkpoint: Checkpoint, mask: Mask, mode: str, settings: Training, device: torch.device
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, LoRALinear]]:
    """The pruned model with fresh LoRA layers, drawn from torch's generator; its tokenizer; the layers by name."""
    model, tokenizer = load_model(checkpoint.folder, device)
    unfuse_experts(model)
    paths = {layer: memory_path(layer) for layer in prunable_layers(checkpoint)}
    layers = attach(model, lambda name: torch.from_numpy(mask.kept(name)), paths, mode, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, tokenizer, layers


def train(job: Job, adapter: Path, state: Path, accelerator: Accelerator) -> Trained:
    """Train an adapter on rows["train"] and write it; a `state` that an earlier process left is gone on from.

    Same job, same thread and process count, same machine: the same bits, killed in between or not."""
    settings, device = job.settings, accelerator.device
    _check_processes(settings, accelerator.num_processes)
    torch.manual_seed(job.seed)
    model, tokenizer, layers = adapted_model(job.checkpoint, job.mask, job.mode, settings, device)
    limit = model.config.max_position_embeddings
    data = {split: encode(rows, job.task, tokenizer, limit) for split, rows in job.rows.items()}
    loop = Loop(model, layers, data, settings, job.seed, accelerator, state, job.identity)
    record = loop.fit() | {"eval_loss": loop.eval_loss()}
    if accelerator.is_main_process:
        matrices = {name: layer.factors() for name, layer in layers.items()}
        write_adapter(adapter, matrices, settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    record |= {
        "backend": "torch",
        "device": device_name(device),
        "processes": accelerator.num_processes,
        "dtype": str(model.dtype).removeprefix("torch."),
        "trainable_parameters": sum(parameter.numel() for parameter in loop.parameters),
        "peak_memory_bytes": peak_memory(device),
        "versions": versions(),
    }
    return Trained(model, tokenizer, layers, record)


def _check_processes(settings: Training, processes: int) -> None:
    if settings.batch_size // settings.micro_batch_size % processes:
        raise InputError(
            f"{processes} processes cannot share {settings.batch_size // settings.micro_batch_size} micro-batches a step",
            "set training.micro_batch_size to batch_size / (a multiple of the processes)",
        )
