"""What the benchmarks share: interleaved timing on one thread, the machine, and a table on screen and as Markdown."""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from sparseft.training.hardware import device_name

RESULTS = Path(__file__).parent / "results"


def interleaved(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of one call of each case.

    One turn is every case, one after the other, so that what disturbs the machine disturbs them alike; a case shorter
    than 20 ms is called several times a turn. The first turn is the warm-up."""
    calls, times = dict.fromkeys(cases, 1), {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, case in cases.items():
            begin = time.process_time()
            for _ in range(calls[name]):
                case()
            spent = 1000 * (time.process_time() - begin) / calls[name]
            if turn == 0:
                calls[name] = max(1, round(20 / max(spent, 0.01)))
            else:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def report(name: str, title: str, conditions: list[str], header: list[str], rows: list[list[str]]) -> None:
    """Print machine, sizes and versions above the table, and write the same to benchmarks/results/{name}.md."""
    machine = f"{device_name(torch.device('cpu'))}, {date.today()}"
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "numpy", "peft", "sparseft"))
    above = [machine, f"python {platform.python_version()}, {packages}", *conditions]
    lines = [f"# {title}", "", *(f"- {line}" for line in above), ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines) + "\n")
