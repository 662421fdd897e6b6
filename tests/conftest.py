"""Provide the tiers, which decide which tests run and report the others."""

import gc
import os
from collections import Counter
from pathlib import Path

import pytest

# Set before torch and transformers are imported. No test needs the network, a test that counts lines wants no bars of progress,
# and two test processes share two cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
SHARED_MISSING = "needs the developers' folder ../shared"
SLOW = "slow (make test-all)"
STARTING = "start a process (make test)"
LONG = "take a third of a second or more (make test)"
# Folder of tests/ -> what its tests need. Only `make test-FOLDER` collects them.
NEEDS = {
    "browser": "needs Chromium",
    "cerebras": "needs cerebras-pytorch",
    "gpu": "needs a GPU",
    "slurm": "needs Slurm",
}
NOT_RUN = pytest.StashKey[Counter]()

# No test needs its files after a power failure, and the waiting for the disk took half of some tests.
os.fsync = lambda descriptor: None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --tier."""
    parser.addoption(
        "--tier",
        choices=["fast", "commit", "all"],
        default="all",
        help="fast: no test that starts a process, or is long or slow; commit: no slow test; all: every test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the count of the tests that the tier leaves out. Load the fixtures where tests run.

    They import torch and transformers. The process of pytest-xdist that only prints would need seconds for that, before any
    test starts."""
    config.stash[NOT_RUN] = Counter()
    is_worker = hasattr(config, "workerinput")
    if is_worker or config.option.collectonly or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are not in the tier. Put long files first, so that two processes end together."""
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.path.name != "test_workflow.py"))
    tier = config.getoption("tier")
    reasons = {item: reason for item in items if (reason := _reason_to_leave_out(item, tier))}
    config.hook.pytest_deselected(items=list(reasons))
    config.stash[NOT_RUN].update(reasons.values())
    items[:] = [item for item in items if item not in reasons]


def pytest_collection_finish() -> None:
    """Keep what is imported from the garbage collector, which would look through it again and again."""
    gc.freeze()


def _reason_to_leave_out(item: pytest.Item, tier: str) -> str | None:
    """Return why a tier does not run a test; None if it runs it."""
    reasons = {"all": {}, "commit": {"slow": SLOW}, "fast": {"slow": SLOW, "long": LONG, "process": STARTING}}[tier]
    # A test in tests/workflow runs Snakemake or a chain of scripts.
    names = {mark.name for mark in item.iter_markers()} | ({"process"} if "workflow" in item.path.parts else set())
    return next((reason for name, reason in reasons.items() if name in names), None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the count of the tests that were left out from a process of pytest-xdist to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = dict(session.config.stash[NOT_RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Store the count of one process. All processes collect and leave out the same tests."""
    node.config.stash[NOT_RUN] = Counter(getattr(node, "workeroutput", {}).get("not_run", {}))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print how many tests were not run, and why, as the last line."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal and NOT_RUN in config.stash and not config.option.collectonly:
        skipped = Counter(_reason_of(report) for report in terminal.stats.get("skipped", []))
        counts = config.stash[NOT_RUN] + skipped + _own_environments(config)
        parts = [f"{count} {reason.replace('needs ', 'need ', 1)}" for reason, count in sorted(counts.items())]
        terminal.write_line(f"not run: {'; '.join(parts) or 'nothing'}")


def _reason_of(skipped: pytest.TestReport) -> str:
    """Return why a test was skipped. All files of the developers' folder have the same reason."""
    reason = skipped.longrepr[2].removeprefix("Skipped: ")
    return SHARED_MISSING if str(SHARED) in reason else reason


def _own_environments(config: pytest.Config) -> Counter:
    """Return the numbers of test functions in folders that only their own commands collect."""
    counts = Counter()
    for name in config.getini("norecursedirs"):
        folder = HERE / name
        if folder.is_dir() and any(Path(place).resolve() in folder.parents for place in config.args):
            text = "".join(path.read_text() for path in folder.glob("test_*.py"))
            counts[f"{NEEDS[name]} (make test-{name})"] = text.count("\ndef test_")
    return counts
