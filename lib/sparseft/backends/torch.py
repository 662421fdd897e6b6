"""Train with the backend torch: a Hugging Face model with LoRA layers, on a CPU or on GPUs, in one process or several."""

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_layers
from sparseft.errors import InputError
from sparseft.language_model.batches import encode
from sparseft.language_model.experts import memory_path, unfuse_experts
from sparseft.language_model.hardware import choose_device, device_name, instructions, use_repeatable_kernels, versions
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import load_model
from sparseft.language_model.sharded_model import divide, empty_model, read_own_rows
from sparseft.lora.adapter import check_origin, read_adapter, write_adapter
from sparseft.lora.carried_mask import carry_mask_
from sparseft.lora.masked_lora import LoRALinear, attach
from sparseft.masks.mask_file import Mask
from sparseft.study.backends import TORCH
from sparseft.study.config import Training
from sparseft.study.grid import TRAINED_MODES, Run
from sparseft.training.job import TrainingJob
from sparseft.training.loop import Loop


def adapted_model(
    checkpoint: Checkpoint, mask: Mask, mode: str, settings: Training, device: torch.device
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, LoRALinear]]:
    """Return the pruned model with new LoRA layers, its tokenizer, and the layers by name.

    The layers' initial values are drawn from torch's generator on `device`, so the caller sets its seed. With
    settings.shard_model, the model has no weights yet, only the adapters."""
    use_repeatable_kernels()
    model, tokenizer = empty_model(checkpoint.folder) if settings.shard_model else load_model(checkpoint.folder, device)
    unfuse_experts(model)
    paths = {layer: memory_path(checkpoint.architecture, layer) for layer in prunable_layers(checkpoint)}
    layers = attach(model, lambda name: torch.from_numpy(mask.kept(name)).to(device), paths, mode, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, tokenizer, layers


def trained_model(
    checkpoint: Checkpoint,
    mask: Mask,
    mask_sha256: str,
    adapter: Path,
    device: torch.device,
    run: Run | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase, str]:
    """Return the trained model before any merge, its tokenizer, and the digest of the adapter that was read.

    Raises InputError if this project did not write the adapter, if it was trained with another mask or for another run than
    `run`, or if it does not fit the model."""
    pairs, _, config, digest = read_adapter(adapter)
    provenance = config.get("sparseft", {})
    if provenance.get("mask_sha256") != mask_sha256 or provenance.get("mode") not in TRAINED_MODES:
        raise InputError(f"{adapter}: not trained with this mask", "give the mask and the adapter of one run")
    if run:
        check_origin(adapter, config, run)
    settings = Training(lora_r=config["r"], lora_alpha=config["lora_alpha"], lora_targets=config["target_modules"])
    model, tokenizer, layers = adapted_model(checkpoint, mask, provenance["mode"], settings, device)
    if layers.keys() != pairs.keys():
        raise InputError(f"{adapter}: has other layers than the model", "give the base that it was trained on")
    with torch.no_grad():
        for name, (A, B) in pairs.items():
            layers[name].lora_A.copy_(A)
            layers[name].lora_B.copy_(B)
            # The adapter does not change any more, so W' is computed once, not for every generated token.
            layers[name].workspace.freeze()
    return model.eval(), tokenizer, digest


def train(job: TrainingJob, adapter: Path, state: Path, accelerator: Accelerator) -> dict:
    """Train an adapter on rows["train"], write it and return the measured part of train.json.

    If the file `state` exists, the training continues from it. The same job gives the same bits on the same machine with the
    same numbers of threads and processes, even if it was killed in between."""
    settings = job.settings
    device = accelerator.device
    settings.check_processes(accelerator.num_processes)
    torch.manual_seed(job.seed)
    model, tokenizer, layers = adapted_model(job.checkpoint, job.mask, job.mode, settings, device)
    loss = AnswerLoss(model)
    if settings.shard_model:
        load_divided(loss, job.checkpoint, job.mask, device, accelerator.num_processes)
    context = model.config.max_position_embeddings
    data = {split: encode(rows, job.task, tokenizer, context) for split, rows in job.rows.items()}
    machine = [torch.get_num_threads(), accelerator.num_processes, device_name(device), instructions(), versions()]
    identity = job.identity(data, Path(__file__), machine)
    loop = Loop(loss, layers, data, settings, job.seed, accelerator, job.evaluation_batch_size, state, identity)
    record = loop.fit() | {"eval_loss": loop.eval_loss()}
    matrices = {name: layer.factors() for name, layer in layers.items()}
    if accelerator.is_main_process:
        write_adapter(adapter, matrices, settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    return record | {
        "backend": TORCH.name,
        "device": device_name(device),
        "processes": accelerator.num_processes,
        "dtype": str(model.dtype).removeprefix("torch."),
        "trainable_parameters": sum(parameter.numel() for parameter in loop.parameters),
        "versions": versions(),
    }


def load_divided(loss: AnswerLoss, checkpoint: Checkpoint, mask: Mask, device: torch.device, processes: int) -> None:
    """Divide a model without weights among all processes, and load and prune each one's rows."""
    divide(loss, device, processes)
    read_own_rows(loss.model, checkpoint, device, partial(_carry_mask, mask))


def new_accelerator() -> Accelerator:
    """Return the device of this process and its links to the other processes of the training."""
    return Accelerator(cpu=choose_device().type == "cpu")


def _carry_mask(mask: Mask, name: str, weight: Tensor, rows: slice) -> None:
    """Make some rows of the tensor `name` carry their mask, in place. A tensor outside the mask keeps its bits."""
    layer = name.removesuffix(".weight")
    if layer in mask.bits:
        carry_mask_(weight, torch.from_numpy(mask.kept(layer)[rows]))
