"""Compare the GPU with the CPU: `make test-gpu`. Without a GPU it ends with one line and a code that is not 0.

It ends with a table for an issue: the machine, the versions, and what every test found.

`pytest tests/gpu --device cpu` compares the CPU with itself. It shows that the tests themselves work.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sparseft.axes.tasks import BY_NAME
from sparseft.data.rows import write_rows
from sparseft.models.language_model.hardware import start
from tiny_models import save_tiny

# Last, because tests/ and benchmarks/ both have a module `masks`.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from bench import missing_gpu, page


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --device, the only place that chooses one."""
    parser.addoption("--device", choices=["cpu", "cuda"], default="cuda", help="what is compared with the CPU")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """End here if there is no GPU. With --device cpu hide the GPUs, because the scripts would use them."""
    if config.getoption("device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif reason := missing_gpu():
        pytest.exit(f"{reason}; nothing was tested", returncode=1)


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """Return the device that is compared with the CPU. Choose exact and repeatable kernels, as every script does."""
    start(1)
    return torch.device(request.config.getoption("device"))


# Wide enough for several tiles of a product, and for the attention kernels of a GPU, which want heads of 64.
WIDE = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64}


@pytest.fixture(scope="session")
def save_wide() -> Callable[..., Path]:
    return lambda name, folder, dtype: save_tiny(name, folder, dtype, changes=WIDE)


@pytest.fixture(scope="module", params=["float32"])
def inputs(request, tmp_path_factory, save_wide) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / request.param
    save_wide("llama", folder / "model", getattr(torch, request.param))
    for split, number in (("train", 64), ("validation", 8)):
        write_rows(folder / f"{split}.jsonl", BY_NAME["boolq_mini"].generate(split, number, 0))
    return folder


@pytest.fixture
def note(record_property) -> Callable[[str], None]:
    """Return a function that takes a measured figure for the table at the end of the run."""
    return lambda figure: record_property("figure", figure)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print the table: a row per test function with its results, and its figures below one another."""
    results = defaultdict(list)
    figures = defaultdict(list)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            test = report.nodeid.partition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
            results[test].append(outcome)
            figures[test] += [value for _, value in report.user_properties]
    rows = []
    for test, outcomes in results.items():
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
        first, *others = figures[test] or [""]
        rows += [[test, counts, first], *(["", "", figure] for figure in others)]
    device = torch.device(config.getoption("device"))
    conditions = [f"{torch.cuda.device_count()} GPUs"] if device.type == "cuda" else []
    terminalreporter.write(f"\n{page('make test-gpu', conditions, ['test', 'result', 'measured'], rows, device)}\n")
