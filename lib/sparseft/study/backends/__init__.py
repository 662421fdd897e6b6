"""The training backends, one file each. docs/extending.md shows how to add one."""

from sparseft.study.backends.backend import Backend
from sparseft.study.backends.cerebras import CEREBRAS
from sparseft.study.backends.modelzoo import MODELZOO
from sparseft.study.backends.torch import TORCH
from sparseft.study.section import Section

BACKENDS = (TORCH, CEREBRAS, MODELZOO)


def get_backend(name: str) -> Backend:
    """Return the backend that the configuration calls `name`."""
    return next(backend for backend in BACKENDS if backend.name == name)


def backend_sections() -> dict[str, type[Section]]:
    """Return the sections of the configuration that belong to backends, by name. Two backends may share one."""
    return {name: section for backend in BACKENDS for name, section in backend.sections.items()}
