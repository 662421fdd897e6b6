"""Hold the part of a model that a training changes: the factors of its adapters, or its weights themselves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, parametrize, vector_to_parameters
from transformers import PreTrainedTokenizerBase

from sparseft.axes.architectures.architecture import Architecture
from sparseft.axes.modes import get_mode
from sparseft.axes.modes.mode import Mode
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.loss import AnswerLoss, mean_answer_loss, teacher_logits
from sparseft.models.language_model.model import empty_model, load_model, load_tokenizer
from sparseft.models.language_model.weights import (
    as_weight,
    divide,
    layer_paths,
    memory_path,
    own_rows,
    read_own_rows,
    unfuse_experts,
)
from sparseft.pruning.masks.mask_file import Mask
from sparseft.training.job import TrainingJob, trained_names
from sparseft.training.lora.adapted_model import masks_on
from sparseft.training.lora.carried_mask import carry_mask_
from sparseft.training.lora.masked_lora import LoRALinear, attach, load_factors
from sparseft.training.settings import Training


class TrainedPart(ABC):
    """Hold what is trained: its parameters, fp32, which the optimizer updates, and the loss that they lower."""

    parameters: list[nn.Parameter]
    # The number format of the model.
    dtype: torch.dtype
    # The key of the configuration with the learning rate.
    rate: str
    # The loss is a weighted sum of means: the name of each mean, and its weight.
    terms: Mapping[str, float] = {"loss": 1.0}
    # Whether each process has rows of its own.
    is_divided = False
    # Whether the user sees the steps.
    shows_steps = True
    # Returns a context in which what does not change in the micro-batches of a step is kept.
    caching: Callable[[], AbstractContextManager] = nullcontext

    @abstractmethod
    def losses(self, micro_batch: list[Example], batch: list[Example]) -> Tensor:
        """Return what a micro-batch adds to the terms of the loss of its batch, fp32 (terms,)."""

    def weighted(self, values: Iterable[Any]) -> Any:
        """Return the loss with these values of its terms."""
        return sum(factor * value for factor, value in zip(self.terms.values(), values, strict=True))

    def take_gradients(self, accelerator: Accelerator) -> None:  # noqa: B027 (one process with whole weights has them)
        """Give the parameters their gradients, summed over the processes, after the backward of a step."""


class ModelPart(TrainedPart):
    """Hold a whole model. A part of it is trained on answers."""

    def __init__(self, loss: AnswerLoss, settings: Training, device: torch.device) -> None:
        """Take the model with its loss. With settings.shard_model its weights are divided among the processes."""
        self.loss = loss.train()
        self.device = device
        self.dtype = loss.model.config.dtype
        # The dense model of a distillation. It is no part of `loss`, so that it is neither trained nor divided.
        self.teacher: nn.Module | None = None
        self.distillation = settings.distillation
        if taught := self.distillation:
            self.terms = {"cross_entropy": 1 - taught.weight, "divergence": taught.weight * taught.temperature**2}

    def losses(self, micro_batch: list[Example], batch: list[Example]) -> Tensor:
        """Return the sums over the answer tokens of a micro-batch, divided by the answer tokens of its batch."""
        inputs = collate(micro_batch).to(self.device)
        teacher = (teacher_logits(self.teacher, inputs), self.distillation.temperature) if self.distillation else ()
        answer_tokens = sum(len(example.ids) - example.answer_start for example in batch)
        return torch.stack([term.sum() for term in torch.atleast_2d(self.loss(inputs, *teacher))]) / answer_tokens

    def eval_loss(self, examples: list[Example], batch_size: int, accelerator: Accelerator) -> float:
        """Return the evaluation loss of the model as it is, in nats per answer token."""
        self.loss.eval()
        loss = mean_answer_loss(self.loss, examples, batch_size, self.device, accelerator)
        self.loss.train()
        return loss


class AdapterPart(ModelPart):
    """Hold the adapters of a model, which are whole on every process."""

    rate = "training.learning_rate"

    def __init__(
        self, loss: AnswerLoss, settings: Training, device: torch.device, layers: dict[str, LoRALinear]
    ) -> None:
        """Take the layers of the model by name."""
        super().__init__(loss, settings, device)
        self.layers = layers
        self.parameters = matrices(layers)
        if settings.cache_weights:
            # Keeps every W' of a step, because the adapters do not change in it. All layers share one workspace.
            self.caching = next(iter(layers.values())).workspace.caching

    def take_gradients(self, accelerator: Accelerator) -> None:
        """Sum the gradients over the processes, after the backward of all micro-batches of a step."""
        if accelerator.num_processes == 1:
            return
        # In one message, because adapters are small.
        gradients = [parameter.grad for parameter in self.parameters]
        vector_to_parameters(accelerator.reduce(parameters_to_vector(gradients), "sum"), gradients)

    def start_from(self, initial) -> None:
        """Copy the factors of another `Adapter`. Raises InputError if it has other layers."""
        if self.layers.keys() != initial.pairs.keys():
            what = "training.lora_targets: the training starts from an adapter of other layers"
            raise InputError(what, "set it as in that training")
        load_factors(self.layers, initial.pairs)

    def write(self, job: TrainingJob, *, is_main: bool) -> None:
        """Write the adapter as PEFT does. All processes call it, and the main one writes."""
        if is_main:
            job.write_adapter({name: layer.factors() for name, layer in self.layers.items()})


class Rounded(nn.Module):
    """Round a weight that is kept in fp32 to the dtype in which the model computes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight. Its gradient is widened again."""
        return weight.to(self.dtype)


class WeightsPart(ModelPart):
    """Hold the weights W~ (out, in) of a model that a full training changes, fp32, with the mask M of each, bool.

    What is pruned starts as zero and gets no gradient. So AdamW's moments of it stay zero, a weight decay leaves it
    zero, and W~ = W~ * M after every step. With a mask that is lifted, it only starts as zero.

    Sources: Kurtic et al. 2023, arXiv 2310.06927 (masked), and Thangarasa et al. 2023, arXiv 2303.10464 (lifted)."""

    rate = "training.full_learning_rate"

    def __init__(
        self, loss: AnswerLoss, settings: Training, device: torch.device, checkpoint: Checkpoint, mask: Mask, mode: Mode
    ) -> None:
        """Take the weights of the model, whose experts are unfused and which no other part trains.

        A model that is divided among processes has fp32 weights, and FSDP2 rounds them."""
        super().__init__(loss, settings, device)
        self.is_divided = settings.shard_model
        # By name on disk: what autograd gives a gradient, the local rows of this process, and which of them are pruned.
        self.leaves = _leaves(loss.model, checkpoint.architecture, trained_names(checkpoint, mask, settings))
        self.local: dict[str, nn.Parameter] = {}
        self.pruned: dict[str, Tensor] = {}
        for name, leaf in self.leaves.items():
            self.local[name] = nn.Parameter(leaf.to_local().detach()) if self.is_divided else leaf
            layer = name.removesuffix(".weight")
            if layer in mask.bits:
                pruned = torch.from_numpy(~mask.kept(layer, self._rows(leaf))).to(self.local[name].device)
                self.local[name].data.masked_fill_(pruned, 0)
                if not mode.lifts_mask and bool(pruned.any()):
                    self.pruned[name] = pruned
        self.parameters = list(self.local.values())

    def take_gradients(self, accelerator: Accelerator) -> None:
        """Take the gradients of the local rows. Those of pruned weights become zero, even one that is not finite."""
        for name, local in self.local.items():
            leaf = self.leaves[name]
            if self.is_divided:
                # An expert to which no token is sent gets none.
                local.grad = torch.zeros_like(local) if leaf.grad is None else leaf.grad.to_local()
                leaf.grad = None
            if name in self.pruned:
                local.grad.masked_fill_(self.pruned[name], 0)

    def start_from(self, initial) -> None:
        """Copy the tensors of another training, a `TrainedCheckpoint`, each process its local rows."""
        with torch.no_grad():
            for name, local in self.local.items():
                rows = initial.read(name, self._rows(self.leaves[name]))
                local.copy_(as_weight(rows, initial.tensors[name].dtype))

    def write(self, job: TrainingJob, *, is_main: bool) -> None:
        """Write the trained tensors. All processes call it: each gives its rows, and the main one writes."""

        def whole(name: str) -> Tensor:
            leaf = self.leaves[name]
            return (leaf.full_tensor() if self.is_divided else leaf).detach().cpu()

        if is_main:
            job.write_weights(whole)
            return
        for name in self.leaves:
            whole(name)

    def _rows(self, leaf: nn.Parameter) -> slice:
        """Return which rows of a weight this process has."""
        if not self.is_divided:
            return slice(0, leaf.shape[0])
        return own_rows(leaf.shape[0], leaf.device_mesh.size(), leaf.device_mesh.get_local_rank())


def matrices(layers: dict[str, LoRALinear]) -> list[nn.Parameter]:
    """Return A and B of the layers."""
    return [matrix for layer in layers.values() for matrix in (layer.lora_A, layer.lora_B)]


def _leaves(model: nn.Module, architecture: Architecture, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters with these names on disk in fp32, with a gradient. The model computes with them rounded to
    its own dtype.

    Modules that share a parameter, such as a tied head, share the new one. FSDP2 rounds what it divides itself."""
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(parameter, []).append((module, name))
    leaves = {}
    for disk_name in names:
        parameter = model.get_parameter(memory_path(architecture, disk_name))
        leaf = parameter
        if parameter.dtype != torch.float32:
            leaf = nn.Parameter(parameter.detach().float())
            for module, name in holders[parameter]:
                setattr(module, name, leaf)
                # Unsafe means that the dtype changes.
                parametrize.register_parametrization(module, name, Rounded(parameter.dtype), unsafe=True)
        leaves[disk_name] = leaf.requires_grad_()
    return leaves


def model_to_train(
    checkpoint: Checkpoint, mask: Mask, mode: str, settings: Training, device: torch.device, processes: int = 1
) -> tuple[AdapterPart | WeightsPart, PreTrainedTokenizerBase]:
    """Return the part of the pruned model that a training in `mode` changes, and the model's tokenizer.

    New adapters are drawn from torch's generator, so the caller sets its seed."""
    described = get_mode(mode)
    if settings.shard_model:
        # Its weights come when it is divided.
        model, tokenizer = empty_model(checkpoint), load_tokenizer(checkpoint.folder)
    else:
        model, tokenizer = load_model(checkpoint.folder, device)
    unfuse_experts(model)
    model.requires_grad_(False)
    if settings.gradient_checkpointing:
        # The method has another name since transformers 5.24, where the old one warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    loss, layers = AnswerLoss(model), {}
    if not described.is_full:
        layers = attach(model, masks_on(mask, device), layer_paths(checkpoint), mode, settings)
    if settings.shard_model:
        divide(loss, device, processes, in_fp32=described.is_full)
        read_own_rows(model, checkpoint, partial(_prune_rows, mask))
    if described.is_full:
        return WeightsPart(loss, settings, device, checkpoint, mask, described), tokenizer
    return AdapterPart(loss, settings, device, layers), tokenizer


def _prune_rows(mask: Mask, name: str, weight: Tensor, rows: slice) -> None:
    """Let some rows of a weight carry their mask, if it has one."""
    layer = name.removesuffix(".weight")
    if layer in mask.bits:
        carry_mask_(weight, torch.from_numpy(mask.kept(layer, rows)))
