"""This project's callbacks for ModelZoo's Trainer. They are imported before a configuration that names them is checked.

ModelZoo's own sparsity does not work together with its Lora. It would mask the initial lora_B, which is all zeros,
completely. If it is given only the base, it fails because the frozen base is not in the optimizer.

So, beside an adapter, these callbacks declare the base to the model only. Masks come from the checkpoint, and are never
derived from zeros. In sparse_to_sparse the forward masks the delta, W + s (B A) * M, because the base never changes.

Source: ModelZoo release 2.10.0, src/cerebras/modelzoo/trainer/callbacks/ and common/utils/model/lora.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from cerebras.modelzoo.common.utils.model.lora import LoRA_Linear
from cerebras.modelzoo.trainer.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sparseft.axes.modes import get_mode
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint
from sparseft.training.lora.factors import initial_factor, masked_update
from sparseft.training.trainers.cerebras.sparsity import declare_sparse


class MaskedLinear(nn.Module):
    """Compute y = x (W + s (B A) * M)^T, a LoRA layer whose effective weight keeps its mask. W (out, in) is frozen.

    The parameters have the keys of ModelZoo's layer. M has no key, because the checkpoint has the mask of the base."""

    def __init__(self, layer: LoRA_Linear, kept: Tensor) -> None:
        """Take the parameters of `layer`. `kept` is bool (out, in)."""
        super().__init__()
        self.weight = layer.weight
        self.lora_A = layer.lora_A
        self.lora_B = layer.lora_B
        self.scaling = layer.scaling
        self.register_buffer("M", kept.to(layer.weight.device, torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        update = masked_update(self.lora_A, self.lora_B, self.scaling, self.M)
        return F.linear(x, self.weight + update)


class MaskedLora(Callback):
    """Replace the layers of ModelZoo's Lora, a callback before this one, by those of this project's modes.

    A starts with the values that the backend torch draws."""

    def __init__(self, checkpoint: str, mode: str, seed: int, targets: list[str]) -> None:
        """Take the masked .mdl file and the settings of the training. Without `targets` every projection gets an
        adapter."""
        self.checkpoint = checkpoint
        self.mode = mode
        self.seed = seed
        self.targets = targets

    def pre_setup(self, trainer) -> None:
        """Replace the layers when the Trainer builds the model, which is later."""

        def replace(model: nn.Module) -> None:
            for layer, path, kept in layer_masks(self.checkpoint):
                parent, _, name = path.rpartition(".")
                module = replaced = model.get_submodule(path)
                if self.targets and layer.rpartition(".")[2] not in self.targets:
                    replaced = nn.Linear(*reversed(module.weight.shape), bias=False, device="meta")
                    replaced.weight = module.weight
                elif get_mode(self.mode).masks_every_step and not kept.all():
                    replaced = MaskedLinear(module, kept)
                setattr(model.get_submodule(parent), name, replaced)

        after_build(trainer, replace)

    def preprocess_checkpoint(self, trainer, state_dict: dict) -> None:
        """Add the initial adapters to a checkpoint that has none. They are drawn in the order of the backend torch."""
        model = state_dict["model"]
        if any(key.endswith(".lora_A") for key in model):
            return
        torch_state = torch.get_rng_state()
        torch.manual_seed(self.seed)
        for _, path, kept in layer_masks(self.checkpoint):
            module = trainer.model.get_submodule(path)
            if hasattr(module, "lora_A"):
                model[f"{path}.lora_A"] = initial_factor(module.lora_A.shape[0], kept.shape[1], torch.device("cpu"))
                model[f"{path}.lora_B"] = torch.zeros(module.lora_B.shape)
        torch.set_rng_state(torch_state)


class DeclaredMasks(Callback):
    """Leave out the masks of layers that are not declared from a checkpoint, because loading is strict."""

    def preprocess_checkpoint(self, trainer, state_dict: dict) -> None:
        """Delete them."""
        known = trainer.model.state_dict().keys()
        for key in [key for key in state_dict["model"] if key.endswith("_mask") and key not in known]:
            del state_dict["model"][key]


class FrozenBaseSparsity(DeclaredMasks):
    """Declare the pruned weights of the base as sparse, with the masks of the checkpoint and their real sparsities.

    A layer without a zero stays dense."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer) -> None:
        """Declare them to the model only, because no optimizer has the base."""
        masks = ((f"{path}.weight", kept) for _, path, kept in layer_masks(self.checkpoint))
        declare_sparse(trainer.model, masks)


class TrainedWeights(DeclaredMasks):
    """Train some parameters of a model, and freeze the others. ModelZoo's own `sparsity:` holds the masks."""

    def __init__(self, names: list[str]) -> None:
        """Take the names of the parameters that are trained."""
        self.names = names

    def pre_setup(self, trainer) -> None:
        """Freeze the others when the Trainer builds the model, before it gives the optimizer its parameters."""

        def freeze(model: nn.Module) -> None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in self.names)

        after_build(trainer, freeze)


def after_build(trainer, change: Callable[[nn.Module], None]) -> None:
    """Let the Trainer change the model in place after it has built it."""
    build = trainer.callbacks["model"].model

    def build_changed() -> nn.Module:
        model = build()
        change(model)
        return model

    trainer.callbacks["model"].model = build_changed


def layer_masks(checkpoint: str) -> Iterator[tuple[str, str, Tensor]]:
    """Yield every prunable layer in order: Hugging Face's name, the module path in ModelZoo's model, and the mask.

    The mask is bool (out, in), true for a weight that is kept."""
    exported = ModelZooCheckpoint(Path(checkpoint).parent, Path(checkpoint))
    for layer in prunable_layers(exported):
        key = exported.places[f"{layer}.weight"].key
        mask = exported.mdl.tensors[f"model.model.{key}_mask"]
        kept = torch.from_numpy(np.ascontiguousarray(exported.mdl.read(mask)))
        yield layer, f"model.{key.removesuffix('.weight')}", kept
