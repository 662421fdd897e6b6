"""Hold the part of a model that a training changes: the factors of its adapters, or its weights themselves."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedTokenizerBase

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import is_finite
from sparseft.checkpoints.trained_weights import TrainedCheckpoint, write_weights
from sparseft.errors import InputError
from sparseft.language_model.loss import AnswerLoss
from sparseft.language_model.weights import (
    TORCH_DTYPES,
    as_weight,
    divide,
    memory_path,
    own_rows,
    read_own_rows,
)
from sparseft.lora.adapted_model import adapt, base_model, check_layers, masks_on
from sparseft.lora.adapter import Adapter, write_adapter
from sparseft.lora.carried_mask import carry_mask_
from sparseft.lora.masked_lora import LoRALinear, load_factors
from sparseft.masks.mask_file import Mask
from sparseft.modes import get_mode
from sparseft.storage.bits import BITS
from sparseft.study.schedule import Training
from sparseft.training.job import TrainingJob


class TrainedPart:
    """Hold what an optimizer updates, and hand it on when the training is done."""

    # fp32. Of a part that is divided among processes, these are the rows of this one.
    parameters: list[nn.Parameter]
    is_divided = False
    # The key of the configuration with its learning rate.
    rate = "training.learning_rate"

    def caching(self) -> AbstractContextManager:
        """Return a context for the micro-batches of a step, in which the parameters do not change."""
        return nullcontext()

    @property
    def size(self) -> int:
        """Return the number of trained parameters of all processes."""
        return sum(parameter.numel() for parameter in self.parameters)


class AdapterPart(TrainedPart):
    """Hold the adapters of a model, which are whole on every process."""

    def __init__(self, layers: dict[str, LoRALinear], base: str) -> None:
        """`layers` by name. `base`: the name of the model."""
        self.layers = layers
        self.base = base
        self.parameters = [matrix for layer in layers.values() for matrix in (layer.lora_A, layer.lora_B)]

    def caching(self) -> AbstractContextManager:
        """Keep every W' of the step. All layers share one workspace."""
        return next(iter(self.layers.values())).workspace.caching()

    def take_gradients(self, accelerator: Accelerator) -> None:
        """Sum the gradients over the processes, after the backward of all micro-batches of a step."""
        if accelerator.num_processes == 1:
            return
        # In one message, because adapters are small.
        gradients = [parameter.grad for parameter in self.parameters]
        total = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        for gradient, part in zip(gradients, total.split([grad.numel() for grad in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def start_from(self, initial: Adapter) -> None:
        """Copy the factors of another adapter."""
        check_layers(self.layers, initial.pairs, "the adapter that the training starts from")
        load_factors(self.layers, initial.pairs)

    def write(self, folder: Path, settings: Training, provenance: dict, is_main: bool) -> None:
        """Write the adapter as PEFT does. All processes call it, and the main one writes."""
        if is_main:
            factors = {name: layer.factors() for name, layer in self.layers.items()}
            write_adapter(folder, factors, settings, base=self.base, sparseft=provenance)


class Rounded(nn.Module):
    """Round a weight that is kept in fp32 to the dtype in which the model computes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight. Its gradient is widened again."""
        return weight.to(self.dtype)


class WeightsPart(TrainedPart):
    """Hold the weights of a model that a full training changes, in fp32, with the mask of each.

    What is pruned starts as zero and gets no gradient. So AdamW's moments of it stay zero, a weight decay leaves it
    zero, and it is zero after every step. With a mask that is lifted, it only starts as zero."""

    rate = "training.full_learning_rate"

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, mask: Mask, settings: Training, *, lifts_mask: bool
    ) -> None:
        """Take the weights of `model`, whose experts are unfused and which no other part trains.

        A model that is divided among processes has fp32 weights, and FSDP2 rounds them."""
        self.checkpoint = checkpoint
        names = trained_names(checkpoint, mask, settings)
        # By name on disk: what autograd gives a gradient, the rows of this process, and which of them are pruned.
        paths = [memory_path(checkpoint.architecture, name) for name in names]
        self.leaves = dict(zip(names, _leaves(model, paths), strict=True))
        self.own: dict[str, nn.Parameter] = {}
        self.pruned: dict[str, Tensor] = {}
        self._size = sum(leaf.numel() for leaf in self.leaves.values())
        for name, leaf in self.leaves.items():
            self.own[name] = nn.Parameter(leaf.to_local().detach()) if self.is_divided else leaf
            layer = name.removesuffix(".weight")
            if layer in mask.bits:
                pruned = torch.from_numpy(~mask.kept(layer))
                own = pruned[self._rows(leaf)].to(self.own[name].device)
                self.own[name].data.masked_fill_(own, 0)
                if not lifts_mask and bool(pruned.any()):
                    self.pruned[name] = own
                    self._size -= int(pruned.sum())
        self.parameters = list(self.own.values())

    @property
    def is_divided(self) -> bool:
        """Return whether each process has rows of its own."""
        return hasattr(next(iter(self.leaves.values())), "full_tensor")

    def take_gradients(self, accelerator: Accelerator) -> None:
        """Take the gradients of the own rows, and set those of what is pruned to zero, even one that is not finite."""
        for name, own in self.own.items():
            leaf = self.leaves[name]
            if self.is_divided and leaf.grad is not None:
                own.grad = leaf.grad.to_local()
                leaf.grad = None
            if name in self.pruned:
                own.grad.masked_fill_(self.pruned[name], 0)

    @property
    def size(self) -> int:
        """Return the number of trained weights of all processes, without those that the mask holds at zero."""
        return self._size

    def start_from(self, initial: TrainedCheckpoint) -> None:
        """Copy the tensors of another training, each process its own rows."""
        with torch.no_grad():
            for name, own in self.own.items():
                rows = initial.read_rows(name, self._rows(self.leaves[name]))
                own.copy_(as_weight(rows, initial.tensors[name].dtype))

    def write(self, folder: Path, settings: Training, provenance: dict, is_main: bool) -> None:
        """Write the trained tensors in the dtypes of the base. Raises InputError if one is not finite there."""
        values = self._rounded()
        if is_main:
            write_weights(folder, [self.checkpoint.tensors[name] for name in self.leaves], values, provenance)
        # The other processes give their rows.
        for _ in values:
            pass

    def _rounded(self) -> Iterator[bytes]:
        """Yield the bytes of each whole tensor."""
        for name, leaf in self.leaves.items():
            whole = (leaf.full_tensor() if self.is_divided else leaf).detach().cpu()
            yield rounded(name, whole, self.checkpoint.tensors[name].dtype)

    def _rows(self, leaf: nn.Parameter) -> slice:
        """Return which rows of a weight this process has."""
        if not self.is_divided:
            return slice(0, leaf.shape[0])
        return own_rows(leaf.shape[0], leaf.device_mesh.size(), leaf.device_mesh.get_local_rank())


def rounded(name: str, values: Tensor, dtype: str) -> bytes:
    """Return the bytes of a trained tensor in a dtype of safetensors. Raises InputError if a value is not finite
    there."""
    # Adding 0 makes every zero +0.0.
    bits = values.flatten().to(TORCH_DTYPES[dtype], copy=True).add_(0.0).view(torch.uint8).numpy().view(BITS[dtype])
    if not is_finite(bits, dtype):
        raise InputError(f"{name} is NaN or infinity in {dtype}", "train again with a lower learning rate")
    return bits.tobytes()


def trained_names(checkpoint: Checkpoint, mask: Mask, settings: Training) -> list[str]:
    """Return the tensors that a full training changes, in the order of the checkpoint."""
    return [name for name in checkpoint.tensors if settings.trains(name, name.removesuffix(".weight") in mask.bits)]


def write_trained(job: TrainingJob, values: Callable[[str], Tensor]) -> int:
    """Write the tensors of a full training on another backend, and return the number of trained weights.

    values: name on disk -> the whole tensor. What the mask holds is written as zero."""
    held = {} if get_mode(job.mode).lifts_mask else job.mask.bits
    tensors = [job.checkpoint.tensors[name] for name in trained_names(job.checkpoint, job.mask, job.settings)]
    sizes = []

    def written() -> Iterator[bytes]:
        for tensor in tensors:
            whole, layer = values(tensor.name), tensor.name.removesuffix(".weight")
            kept = (
                torch.from_numpy(job.mask.kept(layer)) if layer in held else torch.ones(tensor.shape, dtype=torch.bool)
            )
            sizes.append(int(kept.sum()))
            yield rounded(tensor.name, whole * kept, tensor.dtype)

    write_weights(job.output, tensors, written(), job.provenance)
    return sum(sizes)


def _leaves(model: nn.Module, paths: Iterable[str]) -> Iterator[nn.Parameter]:
    """Yield the parameters at these paths in fp32, with a gradient. The model computes with them rounded to its own
    dtype.

    Modules that share a parameter, such as a tied head, share the new one. FSDP2 rounds what it divides itself."""
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(parameter, []).append((module, name))
    for path in paths:
        parameter = model.get_parameter(path)
        leaf = parameter
        if parameter.dtype != torch.float32:
            leaf = nn.Parameter(parameter.detach().float())
            for module, name in holders[parameter]:
                setattr(module, name, leaf)
                # Unsafe means that the dtype changes.
                parametrize.register_parametrization(module, name, Rounded(parameter.dtype), unsafe=True)
        yield leaf.requires_grad_()


def model_to_train(
    checkpoint: Checkpoint, mask: Mask, mode: str, settings: Training, device: torch.device, processes: int = 1
) -> tuple[AnswerLoss, PreTrainedTokenizerBase, TrainedPart]:
    """Return the pruned model with its loss, its tokenizer, and the part of it that a training in `mode` changes.

    New adapters are drawn from torch's generator, so the caller sets its seed."""
    described = get_mode(mode)
    settings.check(mode, {layer.rpartition(".")[2] for layer in mask.shape})
    model, tokenizer = base_model(checkpoint, settings, device)
    layers = None if described.is_full else adapt(model, checkpoint, masks_on(mask, device), mode, settings)
    loss = AnswerLoss(model)
    if settings.shard_model:
        load_divided(loss, checkpoint, mask, device, processes, in_fp32=described.is_full)
    if layers is None:
        return loss, tokenizer, WeightsPart(model, checkpoint, mask, settings, lifts_mask=described.lifts_mask)
    return loss, tokenizer, AdapterPart(layers, checkpoint.folder.name)


def load_divided(
    loss: AnswerLoss, checkpoint: Checkpoint, mask: Mask, device: torch.device, processes: int, *, in_fp32: bool = False
) -> None:
    """Divide a model without weights among all processes, as `divide` does, and load and prune each one's rows."""

    def carry_own_mask(name: str, weight: Tensor, rows: slice) -> None:
        layer = name.removesuffix(".weight")
        if layer in mask.bits:
            carry_mask_(weight, torch.from_numpy(mask.kept(layer)[rows]))

    divide(loss, device, processes, in_fp32=in_fp32)
    read_own_rows(loss.model, checkpoint, carry_own_mask)
