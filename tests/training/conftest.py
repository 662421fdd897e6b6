"""Provide the tiny models in fp32, in the place of those in bfloat16."""

import pytest


@pytest.fixture(scope="session")
def tiny_models(tiny_models32):
    return tiny_models32
