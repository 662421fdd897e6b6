"""The keys of `training:` that say what adapters are like."""

from typing import Literal

from pydantic import Field

from sparseft.axes.architectures import PROJECTIONS
from sparseft.common.section import Section, Small


class Adapters(Section):
    """Set the adapters of a training."""

    lora_r: Small = 8
    """Rank r of the adapters."""
    lora_alpha: float = Field(16.0, gt=0, lt=1e9)
    """The adapter's product B A is scaled by alpha / r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the adapters' input. Must be 0 unless sparse_to_dense is the only mode of the grid."""
    lora_targets: list[Literal[PROJECTIONS]] = Field(  # type: ignore[valid-type]  # the architectures name them
        [], examples=[["q_proj", "v_proj"]]
    )
    """Projections that get an adapter. If the list is empty, all prunable projections get one."""
