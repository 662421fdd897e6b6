"""The training backends, one file each. docs/extending.md shows how to add one."""

from sparseft.study.backends.cerebras import CEREBRAS
from sparseft.study.backends.modelzoo import MODELZOO
from sparseft.study.backends.torch import TORCH

BACKENDS = (TORCH, CEREBRAS, MODELZOO)
