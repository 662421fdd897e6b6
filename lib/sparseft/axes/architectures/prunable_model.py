"""Describe a model for those that remove a part of it, before they read its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparseft.axes.architectures.architecture import Architecture, Part


@dataclass(frozen=True)
class PrunableModel:
    """Hold an architecture with the config.json of one model, and the shapes of its prunable layers.

    `place` is what errors call the model."""

    architecture: Architecture
    config: dict
    shapes: Mapping[str, tuple[int, ...]]
    place: object

    @property
    def groups(self) -> list[list[Part]]:
        """Return the groups of layers whose channels are removed together. Each prunable layer is in one group."""
        return self.architecture.coupled_parts(self.config, self.shapes)
