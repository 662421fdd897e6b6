"""The torch backend: a Hugging Face model with LoRA layers, on a CPU or a GPU."""

from pathlib import Path

import torch

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.config import Training
from sparseft.lora.adapter import write_adapter
from sparseft.lora.experts import memory_path, unfuse_experts
from sparseft.lora.masked_lora import attach
from sparseft.pruning.mask_ops import Mask
from sparseft.tasks.task import Row, Task
from sparseft.training.batches import encode, shuffled
from sparseft.training.hardware import choose_device, device_name, peak_memory, versions
from sparseft.training.loop import fit
from sparseft.training.loss import mean_answer_loss
from sparseft.training.model import load_model


def train(
    checkpoint: Checkpoint, mask: Mask, task: Task, rows: dict[str, list[Row]], settings: Training, *,
    mode: str, seed: int, adapter: Path, provenance: dict,
) -> dict:  # fmt: skip
    """Train an adapter on `rows["train"]` and write it; returns train.json's measured content.

    `provenance` goes into adapter_config.json. Same arguments, same thread count: the same bits."""
    torch.manual_seed(seed)
    device = choose_device()
    model, tokenizer = load_model(checkpoint.folder, device)
    limit = model.config.max_position_embeddings
    data = {split: encode(examples, task, tokenizer, limit) for split, examples in rows.items()}
    unfuse_experts(model)
    scale = settings.lora_alpha / settings.lora_r
    paths = {layer: memory_path(layer) for layer in prunable_layers(checkpoint)}
    layers = attach(model, lambda name: torch.from_numpy(mask.kept(name)), paths, mode, settings.lora_r, scale)
    parameters = [parameter for layer in layers.values() for parameter in (layer.lora_A, layer.lora_B)]
    batches = shuffled(data["train"], settings.batch_size, settings.steps, seed)
    record = fit(model, parameters, batches, settings, device)
    record["eval_loss"] = mean_answer_loss(model, data["validation"], settings.micro_batch_size, device)
    matrices = {name: (layer.lora_A, layer.lora_B) for name, layer in layers.items()}
    write_adapter(
        adapter,
        matrices,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        base=checkpoint.folder.name,
        sparseft=provenance,
    )
    return record | {
        "backend": "torch",
        "device": device_name(device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "trainable_parameters": sum(parameter.numel() for parameter in parameters),
        "peak_memory_bytes": peak_memory(device),
        "versions": versions(),
    }
