"""The training backends, one file each. docs/extending.md shows how to add one."""

from sparseft.study.backends.backend import Backend
from sparseft.study.backends.cerebras import CEREBRAS
from sparseft.study.backends.modelzoo import MODELZOO
from sparseft.study.backends.torch import TORCH

BACKENDS = (TORCH, CEREBRAS, MODELZOO)


def get_backend(name: str) -> Backend:
    """Return the backend that the configuration calls `name`."""
    return next(backend for backend in BACKENDS if backend.name == name)
