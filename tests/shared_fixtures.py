"""Provide the fixtures that all tests share."""

from pathlib import Path

import pytest
import torch
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.model import load_model
from tiny_models import MODELS, TYPICAL, save_tiny


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of the tiny models, in bfloat16. Tests only read them."""
    return {name: save_tiny(name, tmp_path_factory.mktemp("models") / name) for name in MODELS}


@pytest.fixture(scope="session")
def tiny_models32(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of the tiny models in float32, where other sums of one product change no token."""
    return {name: save_tiny(name, tmp_path_factory.mktemp("models32") / name, torch.float32) for name in MODELS}


@pytest.fixture(params=TYPICAL)
def tiny(request, tiny_models) -> Checkpoint:
    """Return each of the typical tiny models in turn."""
    return Checkpoint(tiny_models[request.param])


@pytest.fixture
def tiny_llama(tiny_models) -> Checkpoint:
    return Checkpoint(tiny_models["llama"])


@pytest.fixture(scope="session")
def model32(tmp_path_factory) -> tuple:
    """Return the tiny LLaMA in fp32, with a context for five worked examples in bytes, and its tokenizer."""
    folder = tmp_path_factory.mktemp("fp32") / "llama"
    changes = {"max_position_embeddings": 8192}
    return load_model(save_tiny("llama", folder, torch.float32, changes), torch.device("cpu"))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """Change into a folder that has the cache of the hub (hub_cache.py); return the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, request) -> Path:
    """Return a folder that all test processes of one pytest command share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base
