"""The training backends, one file each. docs/extending.md shows how to add one."""

from sparseft.training.trainers.backends.cerebras import CEREBRAS
from sparseft.training.trainers.backends.modelzoo import MODELZOO
from sparseft.training.trainers.backends.torch import TORCH

BACKENDS = (TORCH, CEREBRAS, MODELZOO)
