"""Train with the backend torch: a Hugging Face model with LoRA layers, on a CPU or on GPUs, in one process or several."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import decoder_layer_of, prunable_layers
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, encode
from sparseft.language_model.hardware import choose_device, device_name, instructions, use_repeatable_kernels, versions
from sparseft.language_model.loss import AnswerLoss, mean_answer_loss
from sparseft.language_model.model import empty_model, load_model, load_tokenizer
from sparseft.language_model.weights import divide, memory_path, read_own_rows, read_weight, unfuse_experts
from sparseft.lora.adapter import check_origin, read_adapter, write_adapter
from sparseft.lora.carried_mask import carry_mask_
from sparseft.lora.effective_weight import Workspace
from sparseft.lora.masked_lora import LoRALinear, attach, load_factors
from sparseft.masks.mask_file import Mask
from sparseft.study.backends import TORCH
from sparseft.study.grid import Run
from sparseft.study.schedule import Training
from sparseft.training.job import TrainingJob
from sparseft.training.loop import Loop
from sparseft.training.reconstruction import LayerReconstruction


def adapted_model(
    checkpoint: Checkpoint, mask: Mask, mode: str, settings: Training, device: torch.device
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, LoRALinear]]:
    """Return the pruned model with new LoRA layers, its tokenizer, and the layers by name.

    The layers' initial values are drawn from torch's generator on `device`, so the caller sets its seed. With
    settings.shard_model, the model has no weights yet, only the adapters."""
    use_repeatable_kernels()
    if settings.shard_model:
        model, tokenizer = empty_model(checkpoint), load_tokenizer(checkpoint.folder)
    else:
        model, tokenizer = load_model(checkpoint.folder, device)
    unfuse_experts(model)
    paths = {layer: memory_path(checkpoint.architecture, layer) for layer in prunable_layers(checkpoint)}
    layers = attach(model, _masks(mask, device), paths, mode, settings)
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
    check_origin(adapter, config, mask_sha256, run)
    settings = Training(lora_r=config["r"], lora_alpha=config["lora_alpha"], lora_targets=config["target_modules"])
    model, tokenizer, layers = adapted_model(checkpoint, mask, config["sparseft"]["mode"], settings, device)
    _check_layers(layers, pairs, adapter)
    load_factors(layers, pairs)
    for layer in layers.values():
        # The adapter does not change any more, so W' is computed once, not for every generated token.
        layer.workspace.freeze()
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
    if job.initial:
        _check_layers(layers, job.initial.pairs, "the adapter that the training starts from")
        load_factors(layers, job.initial.pairs)
    loss = AnswerLoss(model)
    if settings.shard_model:
        load_divided(loss, job.checkpoint, job.mask, device, accelerator.num_processes)
    context = model.config.max_position_embeddings
    data = {split: encode(rows, job.task, tokenizer, context) for split, rows in job.rows.items()}
    identity = job.identity(data, Path(__file__), _machine(device, accelerator.num_processes))
    loop = Loop(loss, layers, data, settings, job.seed, accelerator, job.evaluation_batch_size, state, identity)
    record = loop.fit() | {"eval_loss": loop.eval_loss()}
    matrices = {name: layer.factors() for name, layer in layers.items()}
    if accelerator.is_main_process:
        write_adapter(adapter, matrices, settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    return record | _conditions(model, layers, device, accelerator.num_processes)


def reconstruct(
    job: TrainingJob, dense: Checkpoint, examples: list[Example], adapter: Path, state: Path | None
) -> dict:
    """Reconstruct the outputs of every decoder layer of `dense` on the examples, under the job's mask.

    Write the adapter, and return the measured part of train.json. If the file `state` exists, the reconstruction continues
    after the decoder layers in it. None saves nothing. The same job gives the same bits on the same machine with the same
    number of threads, even if it was killed in between."""
    device = choose_device()
    use_repeatable_kernels()
    torch.manual_seed(job.seed)
    model, tokenizer = load_model(dense.folder, device)
    unfuse_experts(model)
    validation = encode(job.rows["validation"], job.task, tokenizer, model.config.max_position_embeddings)
    data = {"validation": validation, "reconstruction": examples}
    paths = {layer: memory_path(job.checkpoint.architecture, layer) for layer in prunable_layers(job.checkpoint)}
    workspace = Workspace()

    def adapt(number: int) -> dict[str, LoRALinear]:
        """Prune a decoder layer of the dense model, with the weights of the job's checkpoint, and return its new LoRA layers."""
        own = {layer: path for layer, path in paths.items() if decoder_layer_of(layer) == number}
        if dense.digest != job.checkpoint.digest:
            for layer, path in own.items():
                model.get_submodule(path).weight.data.copy_(read_weight(job.checkpoint, f"{layer}.weight"))
        return attach(model, _masks(job.mask, device), own, job.mode, job.settings, workspace=workspace)

    identity = job.identity(data, Path(__file__), _machine(device, 1))
    reconstruction = LayerReconstruction(model, examples, adapt, job.settings, job.seed, device, state, identity)
    reconstruction.run()
    layers = reconstruction.layers
    loss = mean_answer_loss(AnswerLoss(model), validation, job.evaluation_batch_size, device)
    matrices = {name: layer.factors() for name, layer in layers.items()}
    write_adapter(adapter, matrices, job.settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    return reconstruction.record() | {"eval_loss": loss} | _conditions(model, layers, device, 1)


def _masks(mask: Mask, device: torch.device) -> Callable[[str], Tensor]:
    """Return a function that gives the mask of a layer, bool (out, in), on `device`."""
    return lambda layer: torch.from_numpy(mask.kept(layer)).to(device)


def _check_layers(layers: dict[str, LoRALinear], pairs: dict, adapter: object) -> None:
    """Raise InputError if an adapter has matrices for other layers than the model has LoRA layers."""
    if layers.keys() != pairs.keys():
        raise InputError(f"{adapter}: has other layers than the model", "give the base that it was trained on")


def _machine(device: torch.device, processes: int) -> list:
    """Return what decides the bits of an adapter in addition to the job."""
    return [torch.get_num_threads(), processes, device_name(device), instructions(), versions()]


def _conditions(model: nn.Module, layers: dict[str, LoRALinear], device: torch.device, processes: int) -> dict:
    """Return the part of train.json that says what trained."""
    return {
        "backend": TORCH.name,
        "device": device_name(device),
        "processes": processes,
        "dtype": str(model.dtype).removeprefix("torch."),
        "trainable_parameters": sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in layers.values()),
        "versions": versions(),
    }


def load_divided(loss: AnswerLoss, checkpoint: Checkpoint, mask: Mask, device: torch.device, processes: int) -> None:
    """Divide a model without weights among all processes, and load and prune each one's rows."""

    def carry_own_mask(name: str, weight: Tensor, rows: slice) -> None:
        layer = name.removesuffix(".weight")
        if layer in mask.bits:
            carry_mask_(weight, torch.from_numpy(mask.kept(layer)[rows]))

    divide(loss, device, processes)
    read_own_rows(loss.model, checkpoint, device, carry_own_mask)


def new_accelerator() -> Accelerator:
    """Return the device of this process and its links to the other processes of the training."""
    return Accelerator(cpu=choose_device().type == "cpu")
