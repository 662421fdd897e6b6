"""Provide the tiny models in fp32, in the place of those in bfloat16."""

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from tiny_models import TYPICAL, save_tiny


@pytest.fixture(scope="module")
def fp32_models(tmp_path_factory) -> dict[str, Checkpoint]:
    """Return the typical tiny models in fp32. Tests only read them."""
    folder = tmp_path_factory.mktemp("fp32")
    return {name: Checkpoint(save_tiny(name, folder / name, torch.float32)) for name in TYPICAL}


@pytest.fixture(params=TYPICAL)
def tiny(request, fp32_models) -> Checkpoint:
    """Return each of the models in turn."""
    return fp32_models[request.param]


@pytest.fixture
def tiny_llama(fp32_models) -> Checkpoint:
    """Return the tiny LLaMA."""
    return fp32_models["llama"]
