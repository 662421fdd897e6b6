"""Compare the GPU with the CPU: `make test-gpu`. Without a GPU it ends with one line and a code that is not 0.

`pytest tests/gpu --device cpu` compares the CPU with itself. It shows that the tests themselves work.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]
from bench import machine_of, missing_gpu  # noqa: E402, from the folder of the line above

FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --device, the only place that chooses one."""
    parser.addoption("--device", choices=["cpu", "cuda"], default="cuda", help="what is compared with the CPU")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """End here if there is no GPU. With --device cpu hide the GPUs, because the scripts would use them."""
    config.stash[FIGURES] = []
    if config.getoption("device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif reason := missing_gpu():
        pytest.exit(f"{reason}; nothing was tested", returncode=1)


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """Return the device that is compared with the CPU."""
    return torch.device(request.config.getoption("device"))


@pytest.fixture(scope="session")
def note(request) -> Callable[[str], None]:
    """Return a function that takes a measured figure for the end of the run."""
    return request.config.stash[FIGURES].append


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print what was measured, and on what."""
    device = torch.device(config.getoption("device"))
    gpus = f"{torch.cuda.device_count()} GPUs, " if device.type == "cuda" else ""
    terminalreporter.section("measured")
    terminalreporter.write_line(f"on {gpus}{machine_of(device)}, torch {torch.__version__}")
    for figure in config.stash[FIGURES]:
        terminalreporter.write_line(figure)
