"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

# before torch and transformers are imported: no test looks anything up, and two test processes share two cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from sparseft.checkpoints.checkpoint import Checkpoint
from tiny_models import MODELS, save_tiny


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """The folders of the tiny models, bf16; read only."""
    return {name: save_tiny(name, tmp_path_factory.mktemp("models") / name) for name in MODELS}


@pytest.fixture(params=list(MODELS))
def tiny(request, tiny_models) -> Checkpoint:
    """Each tiny model in turn."""
    return Checkpoint(tiny_models[request.param])


@pytest.fixture
def tiny_llama(tiny_models) -> Checkpoint:
    return Checkpoint(tiny_models["llama"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: two processes then end together (with --no-loadscope-reorder)."""
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.path.name != "test_workflow.py"))
