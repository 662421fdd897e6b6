"""Provide the places of the files that a method that updates weights writes."""

import pytest
from sparseft.study.grid import PassFiles


@pytest.fixture
def places(tmp_path) -> PassFiles:
    """Return the places of one sparsity, which do not exist yet."""
    return PassFiles([tmp_path / "masks/m.pt"], tmp_path / "masks/r.json", base=tmp_path / "pruned/base")
