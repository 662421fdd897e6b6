"""These tests need the environment of cerebras-pytorch: `make test-cerebras`. Anywhere else they are skipped."""

import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from runs import Inputs, in_default_environment  # noqa: E402, beside this file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not any(package.name == "cerebras-pytorch" for package in distributions()):
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs cerebras-pytorch (make test-cerebras)"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    in_default_environment(HERE / "reference.py", "make", folder)
    return Inputs(folder)
