"""The frozen base on cerebras-pytorch: its masks are declared to the compiler, and no step may change a bit of it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparseft.backends.cerebras.package import cstorch
from sparseft.errors import InputError
from sparseft.masks.mask_file import Mask


def declare_sparse(compiled: Callable, mask: Mask, paths: Mapping[str, str]) -> None:
    """Declare the pruned weights of the base as sparse, with the masks of the file and their real sparsities.

    `paths` gives the module path of each layer's name on disk. Adapters stay dense, and so does a layer without a zero.
    The declaration applies only to the model, because no optimizer has the base."""
    declared = {}
    for layer, path in paths.items():
        kept = torch.from_numpy(mask.kept(layer))
        pruned = 1 - kept.count_nonzero().item() / kept.numel()
        if pruned:
            declared[f"model.{path}.weight"] = cstorch.sparse.Static(pruned, init_method=_init_with(kept))
    if declared:
        compiled.apply(cstorch.sparse.Group(declared))


def _init_with(kept: Tensor) -> Callable:
    """Return an init_method that gives the mask `kept`. The package checks the names of its parameters."""

    def from_file(
        p: nn.Parameter,
        sparsity: torch.FloatTensor,
        score_shaper: cstorch.sparse.utils.ScoreShaper | None = None,
        device: torch.device | None = None,
    ) -> torch.BoolTensor:
        return kept.to(p.device if device is None else device)

    return from_file


def frozen_bits(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter that is not trained, by name."""
    return {
        name: parameter.detach().clone() for name, parameter in module.named_parameters() if not parameter.requires_grad
    }


def check_frozen(module: nn.Module, base: Mapping[str, Tensor], step: int) -> None:
    """Raise InputError if a step changed a bit of the frozen base, for example a zero."""
    for name, before in base.items():
        now = module.get_parameter(name).detach()
        if not torch.equal(now.view(torch.uint8), before.view(torch.uint8)):
            raise InputError(f"step {step} changed the frozen {name}", "report this line; no adapter was written")
