"""What a study must know of a training backend, without importing the code that trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseft.axes.architectures.architecture import Architecture
from sparseft.common.errors import InputError

# Config of study/config.py, which imports this folder.
StudyConfig = Any


@dataclass(frozen=True)
class Appliance:
    """Describe a device that a job reaches over the network. It trains, and this machine only starts the training."""

    # The bytes of memory that a training of a model with so many weights needs on the machine that starts it.
    host_memory: Callable[[int], int]
    # The time limit of a training in minutes, including its wait for the device.
    queue_minutes: int


@dataclass(frozen=True)
class Backend:
    """Describe a training backend. Its code is in trainers/, and its rules are in rules/backends/NAME.smk.

    `check` raises InputError for a configuration that the backend cannot train."""

    name: str
    check: Callable[[StudyConfig], None] = lambda config: None
    # The architectures that it trains. None if it trains all.
    architectures: tuple[Architecture, ...] | None = None
    # What trains. None if the GPUs and the CPU of this machine do.
    appliance: Appliance | None = None
    # Whether its rules have the stage `throughput`.
    measures: bool = True
    # Whether every training ends with an evaluation loss, which the device computes. Others evaluate if `eval_every`
    # says so.
    evaluates: bool = False

    def check_architecture(self, architecture: Architecture, place: Path | str) -> None:
        """Raise InputError, naming the model's `place`, if the backend does not train its architecture."""
        if self.architectures is None or architecture in self.architectures:
            return
        trained = ", ".join(known.class_name for known in self.architectures)
        what = f"{place}: the backend {self.name} does not train {architecture.class_name}"
        raise InputError(what, f"use one of {trained}, or set backend: torch")
