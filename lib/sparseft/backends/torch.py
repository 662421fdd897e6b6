"""Train with the backend torch: a Hugging Face model with LoRA layers, on a CPU or on GPUs, in one process or several."""

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import decoder_layer_of, prunable_layers
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, encode_splits
from sparseft.language_model.hardware import choose_device, device_name, instructions, versions
from sparseft.language_model.layered_model import LayeredModel, decoder_layer_tensors, read_tensors
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.model import empty_model, load_model, load_tokenizer
from sparseft.language_model.placement import StoredWeights, place
from sparseft.language_model.weights import divide, memory_path, read_own_rows, unfuse_experts
from sparseft.lora.adapter import Adapter, check_origin, read_adapter, write_adapter
from sparseft.lora.carried_mask import carry_mask_
from sparseft.lora.effective_weight import Workspace, build
from sparseft.lora.masked_lora import LoRALinear, MaskedLoRALinear, attach, kind_of, load_factors
from sparseft.masks.mask_file import Mask
from sparseft.storage.locks import hold
from sparseft.study.backends import TORCH
from sparseft.study.grid import Run
from sparseft.study.schedule import Training
from sparseft.training.job import TrainingJob
from sparseft.training.loop import Loop
from sparseft.training.reconstruction import WHOLE, LayerReconstruction, part_of


def adapted_model(
    checkpoint: Checkpoint, mask: Mask, mode: str, settings: Training, device: torch.device
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, LoRALinear]]:
    """Return the pruned model with new LoRA layers, its tokenizer, and the layers by name.

    The layers' initial values are drawn from torch's generator, so the caller sets its seed. With
    settings.shard_model, the model has no weights yet, only the adapters."""
    if settings.shard_model:
        model, tokenizer = empty_model(checkpoint), load_tokenizer(checkpoint.folder)
    else:
        model, tokenizer = load_model(checkpoint.folder, device)
    layers = _adapt(model, checkpoint, mask, mode, settings, device)
    if settings.gradient_checkpointing:
        # The method has another name since transformers 5.24, where the old one warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model, tokenizer, layers


class TrainedWeights(StoredWeights):
    """Map the name of a parameter of an evaluated model to its weight: W' of a masked layer, else the pruned base and the
    adapter.

    What changes a weight is computed on `device`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        mask: Mask,
        adapter: Adapter,
        masked: set[str],
        device: torch.device,
    ) -> None:
        """`masked` are the layers whose weight is W'."""
        super().__init__(checkpoint, model)
        self._prunable = {memory_path(checkpoint.architecture, layer): layer for layer in mask.shape}
        self._masks = _masks(mask, device)
        self._adapter = adapter
        self._masked = masked
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight."""
        path, _, kind = name.rpartition(".")
        layer = self._prunable.get(path)
        if layer is None or kind == "bias":
            return super().__getitem__(name)
        if kind != "weight":
            return self._adapter.pairs[layer][kind == "lora_B"]
        weight = carry_mask_(super().__getitem__(name).to(self._device), self._masks(layer))
        if layer in self._masked:
            A, B = (matrix.to(self._device) for matrix in self._adapter.pairs[layer])
            build(weight, weight, A, B, self._adapter.scale)
        return weight


def trained_model(
    checkpoint: Checkpoint,
    mask: Mask,
    mask_sha256: str,
    folder: Path,
    device: torch.device,
    run: Run | None = None,
    rooms: dict[str, float] | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase, str]:
    """Return the trained model before any merge, its tokenizer, and the digest of the adapter in `folder`.

    The adapter does not change any more, so W' takes the place of W in a masked layer. rooms: as in `load_model`

    Raises InputError if this project did not write the adapter, if it was trained with another mask or for another run than
    `run`, or if it does not fit the model."""
    adapter = read_adapter(folder)
    config = adapter.config
    check_origin(folder, config, mask_sha256, run)
    settings = Training(lora_r=config["r"], lora_alpha=config["lora_alpha"], lora_targets=config["target_modules"])

    def kind(mode: str, kept: Tensor) -> Callable[..., nn.Module]:
        layer = kind_of(mode, kept)
        return (lambda linear, *_: linear) if layer is MaskedLoRALinear else layer

    model = empty_model(checkpoint)
    layers = _adapt(model, checkpoint, mask, config["sparseft"]["mode"], settings, device, kind)
    _check_layers(layers, adapter.pairs, folder)
    masked = {layer for layer, module in layers.items() if not isinstance(module, LoRALinear)}
    weights = TrainedWeights(checkpoint, model, mask, adapter, masked, device)
    place(model, weights, rooms or {str(device): math.inf})
    return model.eval(), load_tokenizer(checkpoint.folder), adapter.digest


def train(
    job: TrainingJob, adapter: Path, state: Path, accelerator: Accelerator, weights_mb: int | None = None
) -> dict:
    """Train an adapter on rows["train"], write it and return the measured part of train.json.

    weights_mb: memory for the weights of a teacher on the device of each process, in MB; None puts all of them there

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
    data = encode_splits(job.rows, job.task, tokenizer, context, settings)
    identity = job.identity(data, Path(__file__), _machine(device, accelerator.num_processes))
    # Not cpu:1, as the device of a second process on a CPU is called. A tensor there says that it is on cpu.
    place_name = "cpu" if device.type == "cpu" else str(device)
    rooms = None if weights_mb is None else {place_name: 1e6 * weights_mb}
    teacher = load_model(job.teacher.folder, device, rooms)[0] if job.teacher else None
    batch_size = job.evaluation_batch_size
    loop = Loop(loss, layers, data, settings, job.seed, accelerator, batch_size, state, identity, teacher)
    record = loop.fit()
    matrices = {name: layer.factors() for name, layer in layers.items()}
    if accelerator.is_main_process:
        write_adapter(adapter, matrices, settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    return record | _conditions(model, matrices, device, accelerator.num_processes)


def reconstruct(
    job: TrainingJob,
    dense: Checkpoint,
    examples: list[Example],
    adapter: Path,
    state: Path | None,
    parts: tuple[str | None, ...] = WHOLE,
) -> dict:
    """Reconstruct the outputs of every decoder layer of `dense` on the examples, or of its `parts`, under the job's mask.

    Write the adapter, and return the measured part of train.json. If the file `state` exists, the reconstruction continues
    after the decoder layers in it. None saves nothing. The same job gives the same bits on the same machine with the same
    number of threads, even if it was killed in between."""
    device = choose_device()
    torch.manual_seed(job.seed)
    layered = LayeredModel(dense, device)
    model = layered.model
    paths = {layer: memory_path(job.checkpoint.architecture, layer) for layer in prunable_layers(job.checkpoint)}
    workspace = Workspace()
    base = None if dense.digest == job.checkpoint.digest else empty_model(job.checkpoint)
    if base:
        unfuse_experts(base)

    def adapt(number: int, part: str | None) -> dict[str, LoRALinear]:
        """Prune a part of a decoder layer of the dense model, with the weights of the job's checkpoint.

        Return its new LoRA layers."""
        places = paths.items()
        own = {key: path for key, path in places if decoder_layer_of(key) == number and part_of(path, parts) == part}
        if base:
            # It may have fewer experts.
            read_tensors(base, job.checkpoint, decoder_layer_tensors(job.checkpoint, number), device, layered.dtype)
            for name, child in base.model.layers[number].named_children():
                if part_of(f".{name}.", parts) == part:
                    setattr(model.model.layers[number], name, child)
        return attach(model, _masks(job.mask, device), own, job.mode, job.settings, workspace=workspace)

    machine = [*_machine(device, 1), *filter(None, parts)]
    identity = job.identity({"reconstruction": examples}, Path(__file__), machine)
    reconstruction = LayerReconstruction(layered, examples, adapt, job.settings, job.seed, state, identity, parts)
    reconstruction.run()
    matrices = reconstruction.factors
    write_adapter(adapter, matrices, job.settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    return reconstruction.record() | _conditions(model, matrices, device, 1)


def _adapt(
    model: nn.Module,
    checkpoint: Checkpoint,
    mask: Mask,
    mode: str,
    settings: Training,
    device: torch.device,
    kind: Callable = kind_of,
) -> dict[str, LoRALinear]:
    """Unfuse the experts of a model, prune it and return its new LoRA layers by name. `kind` as in `attach`."""
    unfuse_experts(model)
    paths = {layer: memory_path(checkpoint.architecture, layer) for layer in prunable_layers(checkpoint)}
    return attach(model, _masks(mask, device), paths, mode, settings, kind)


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


def _conditions(model: nn.Module, matrices: dict, device: torch.device, processes: int) -> dict:
    """Return the part of train.json that says what trained."""
    return {
        "backend": TORCH.name,
        "device": device_name(device),
        "processes": processes,
        "dtype": str(model.dtype).removeprefix("torch."),
        "trainable_parameters": sum(matrix.numel() for pair in matrices.values() for matrix in pair),
        "versions": versions(),
    }


def load_divided(loss: AnswerLoss, checkpoint: Checkpoint, mask: Mask, device: torch.device, processes: int) -> None:
    """Divide a model without weights among all processes, as `divide` does, and load and prune each one's rows."""

    def carry_own_mask(name: str, weight: Tensor, rows: slice) -> None:
        layer = name.removesuffix(".weight")
        if layer in mask.bits:
            carry_mask_(weight, torch.from_numpy(mask.kept(layer)[rows]))

    divide(loss, device, processes)
    read_own_rows(loss.model, checkpoint, carry_own_mask)


def new_accelerator() -> Accelerator:
    """Return the device of this process and its links to the other processes of the training."""
    return Accelerator(cpu=choose_device().type == "cpu")


def hold_together(path: Path, accelerator: Accelerator) -> None:
    """Make an output the own one of all processes of this training. If another training holds it, all of them wait.

    Only the main process takes the lock. The others must not read the saved state before, because the other training may
    still be writing it."""
    # NCCL would end the training after ten minutes in its barrier.
    if accelerator.num_processes > 1:
        group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    if accelerator.is_main_process:
        hold(path)
    if accelerator.num_processes > 1:
        torch.distributed.barrier(group)
