"""Provide the tiers, which decide which tests run."""

import gc
import os

import pytest

# Set before torch and transformers are imported. No test needs the network, a test that counts lines wants no bars of
# progress, and two test processes share two cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tier -> the marks of the tests that it leaves out. Every test in tests/workflow counts as `process`, because it runs
# Snakemake or a chain of scripts.
LEFT_OUT = {"fast": {"slow", "long", "process"}, "commit": {"slow"}, "all": set()}

# No test needs its files after a power failure, and the waiting for the disk took half of some tests.
os.fsync = lambda descriptor: None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --tier."""
    parser.addoption("--tier", choices=LEFT_OUT, default="all", help="fast: no test that is long or slow or starts a "
                     "process; commit: no slow test; all: every test")  # fmt: skip


def pytest_report_header(config: pytest.Config) -> str:
    """Say what the tier leaves out."""
    tier = config.getoption("tier")
    return f"tier {tier}, without tests marked: {', '.join(sorted(LEFT_OUT[tier])) or 'none'}"


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run.

    They import torch and transformers. The process of pytest-xdist that only prints would need seconds for that, before
    any test starts."""
    is_worker = hasattr(config, "workerinput")
    if is_worker or config.option.collectonly or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are not in the tier. Put files with slow tests first, so that two processes end
    together."""
    slow = {item.path for item in items if "slow" in _marks(item)}
    items.sort(key=lambda item: item.path not in slow)
    excluded = {item for item in items if _marks(item) & LEFT_OUT[config.getoption("tier")]}
    config.hook.pytest_deselected(items=list(excluded))
    items[:] = [item for item in items if item not in excluded]


def _marks(item: pytest.Item) -> set[str]:
    """Return the names of a test's marks."""
    return {mark.name for mark in item.iter_markers()} | ({"process"} if "workflow" in item.path.parts else set())


def pytest_collection_finish() -> None:
    """Keep what is imported from the garbage collector, which would look through it again and again."""
    gc.freeze()
