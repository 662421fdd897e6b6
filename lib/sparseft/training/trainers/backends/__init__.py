"""The training backends, one file each. docs/extending.md shows how to add one."""

from sparseft.trainers.backends.cerebras import CEREBRAS
from sparseft.trainers.backends.modelzoo import MODELZOO
from sparseft.trainers.backends.torch import TORCH

BACKENDS = (TORCH, CEREBRAS, MODELZOO)
