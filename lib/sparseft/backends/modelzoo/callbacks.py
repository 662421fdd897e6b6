"""This project's callbacks for ModelZoo's Trainer; imported before a configuration that names them is checked.

ModelZoo's own sparsity together with its Lora masks lora_B, all zeros, completely, or, with the base alone, misses the
frozen base in the optimizer. Here the base is declared to the model only, and never derived from zeros: masks are those of the
checkpoint. In sparse_to_sparse the delta is masked in the forward, (W + s (B A) * M), for the base never moves.

Written against release 2.10.0: src/cerebras/modelzoo/trainer/callbacks/ and common/utils/model/lora.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cerebras.pytorch as cstorch
import numpy as np
import torch
from cerebras.modelzoo.common.utils.model.lora import LoRA_Linear
from cerebras.modelzoo.trainer.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.modelzoo_checkpoint import open_checkpoint
from sparseft.errors import InputError
from sparseft.lora.factors import initial_factor
from sparseft.modes import get_mode


class MaskedLinear(nn.Module):
    """A LoRA layer whose effective weight keeps its mask: y = x (W + s (B A) * M)^T; W (out, in) is pruned and frozen.

    The parameters, and so the keys, are those of ModelZoo's layer; M is no key, the base's mask stands for it."""

    def __init__(self, layer: LoRA_Linear, kept: Tensor, gradient: str) -> None:
        """`kept`: bool (out, in); `gradient`: exact or straight_through, as in lora/masked_lora.py."""
        super().__init__()
        self.weight, self.lora_A, self.lora_B = layer.weight, layer.lora_A, layer.lora_B
        self.scaling, self.gradient = layer.scaling, gradient
        self.register_buffer("M", kept.to(layer.weight.device, torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        delta = self.scaling * (self.lora_B @ self.lora_A)  # (out, in)
        masked = delta * self.M
        if self.gradient == "straight_through":
            masked = delta + (masked - delta).detach()
        return F.linear(x, self.weight + masked)


class FrozenLinear(nn.Module):
    """A layer without an adapter, its key the same."""

    def __init__(self, layer: LoRA_Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight)


class MaskedLora(Callback):
    """Makes of the layers of ModelZoo's Lora, which stands before it, those of this project's modes; A starts as the torch backend's."""

    def __init__(self, checkpoint: str, mode: str, seed: int, targets: list[str], gradient: str) -> None:
        """`checkpoint`: the masked .mdl file; `targets`: projections that get an adapter, all where there is none."""
        self.checkpoint, self.mode, self.seed, self.targets, self.gradient = checkpoint, mode, seed, targets, gradient

    def pre_setup(self, trainer) -> None:
        """The model is built later; its layers are replaced then."""
        build = trainer.callbacks["model"].model
        trainer.callbacks["model"].model = lambda: self._replaced(build())

    def _replaced(self, model: nn.Module) -> nn.Module:
        for layer, path, kept in layer_masks(self.checkpoint):
            parent, _, name = path.rpartition(".")
            module = model.get_submodule(path)
            if self.targets and layer.rpartition(".")[2] not in self.targets:
                setattr(model.get_submodule(parent), name, FrozenLinear(module))
            elif get_mode(self.mode).masks_every_step and not kept.all():
                rows, columns = kept.any(1), kept.any(0)
                structured = torch.equal(kept, rows[:, None] & columns)  # the torch backend's is exact there
                gradient = "exact" if structured else self.gradient
                setattr(model.get_submodule(parent), name, MaskedLinear(module, kept, gradient))
        return model

    def preprocess_checkpoint(self, trainer, state_dict: dict) -> None:
        """Gives a checkpoint without adapters the initial ones, drawn in the torch backend's order."""
        model, torch_state = state_dict["model"], torch.get_rng_state()
        if any(key.endswith(".lora_A") for key in model):
            return
        torch.manual_seed(self.seed)
        for _, path, kept in layer_masks(self.checkpoint):
            module = trainer.model.get_submodule(path)
            if hasattr(module, "lora_A"):
                model[f"{path}.lora_A"] = initial_factor(module.lora_A.shape[0], kept.shape[1], torch.device("cpu"))
                model[f"{path}.lora_B"] = torch.zeros(module.lora_B.shape)
        torch.set_rng_state(torch_state)


class FrozenBaseSparsity(Callback):
    """Tells the backend which weights of the base are sparse: the checkpoint's masks, their real sparsity as the hint.

    A layer without a zero stays dense."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer) -> None:
        """Applied to the model alone: the base is in no optimizer."""
        declared = {}
        for _, path, kept in layer_masks(self.checkpoint):
            pruned = 1 - kept.count_nonzero().item() / kept.numel()
            if pruned:
                declared[f"{path}.weight"] = cstorch.sparse.Static(pruned, init_method=_init_with(kept))
        if declared:
            trainer.model.apply(cstorch.sparse.Group(declared))

    def preprocess_checkpoint(self, trainer, state_dict: dict) -> None:
        """Leaves out the masks of layers that are not declared; loading is strict."""
        known = trainer.model.state_dict().keys()
        for key in [key for key in state_dict["model"] if key.endswith("_mask") and key not in known]:
            del state_dict["model"][key]


class LastCheckpoint(Callback):
    """Keeps the newest checkpoint alone: each holds the whole base."""

    def on_after_save_checkpoint(self, trainer, ckpt_path: str) -> None:
        """Removes the others."""
        for path in Path(ckpt_path).parent.glob("checkpoint_*.mdl"):
            if path != Path(ckpt_path):
                path.unlink()


def layer_masks(checkpoint: str) -> Iterator[tuple[str, str, Tensor]]:
    """(Hugging Face's name, module path in ModelZoo's model, kept, bool (out, in)) of every prunable layer, in order.

    Raises InputError where the checkpoint holds no mask of a layer."""
    exported = open_checkpoint(Path(checkpoint))
    for layer in prunable_layers(exported):
        place = exported.places[f"{layer}.weight"]
        mask = exported.mdl.tensors.get(f"model.model.{place.key}_mask")
        if mask is None:
            raise InputError(f"{checkpoint}: no mask of {layer}", "write it again with export_modelzoo.py --mask_path")
        kept = torch.from_numpy(np.ascontiguousarray(exported.mdl.read(mask)))
        yield layer, f"model.{place.key.removesuffix('.weight')}", kept


def _init_with(kept: Tensor) -> Callable:
    def from_checkpoint(
        p: nn.Parameter,
        sparsity: torch.FloatTensor,
        score_shaper: cstorch.sparse.utils.ScoreShaper | None = None,
        device: torch.device | None = None,
    ) -> torch.BoolTensor:
        return kept.to(p.device if device is None else device)

    return from_checkpoint
