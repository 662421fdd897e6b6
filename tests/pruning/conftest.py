"""Provide the places of the files that a method that updates weights writes."""

import pytest
from sparseft.pruning.pruned_base import PrunedFiles


@pytest.fixture
def places(tmp_path) -> PrunedFiles:
    """Return the places of one sparsity, which do not exist yet."""
    return PrunedFiles(tmp_path / "masks/m.pt", tmp_path / "masks/r.json", tmp_path / "pruned/base")
