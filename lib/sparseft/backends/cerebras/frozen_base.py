"""Check that no step of a training on cerebras-pytorch changes a bit of the frozen base."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparseft.errors import InputError


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
