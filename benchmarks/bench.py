"""What the benchmarks share: interleaved timing on one thread, the machine, and a table on screen and as Markdown."""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from sparseft.language_model.hardware import device_name

RESULTS = Path(__file__).parent / "results"


CPU = torch.device("cpu")


def clock(device: torch.device) -> float:
    """Seconds: CPU time of the process, or the time of day when the GPU has done what it was given."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(cases: dict[str, Callable[[], object]], repeats: int, device: torch.device = CPU) -> dict[str, float]:
    """Median milliseconds of one call of each case: of CPU time, or of the GPU's.

    One turn is every case, one after the other, so that what disturbs the machine disturbs them alike; a case shorter
    than 200 ms is called several times a turn, or the caches that the case before it left would be measured. The first
    turn is the warm-up."""
    calls, times = dict.fromkeys(cases, 1), {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, case in cases.items():
            begin = clock(device)
            for _ in range(calls[name]):
                case()
            spent = 1000 * (clock(device) - begin) / calls[name]
            if turn == 0:
                calls[name] = max(1, round(200 / max(spent, 0.01)))
            else:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def report(
    name: str, title: str, conditions: list[str], header: list[str], rows: list[list[str]], device: torch.device = CPU
) -> None:
    """Print machine, sizes and versions above the table, and write the same to benchmarks/results/{name}.md."""
    machine = f"{device_name(device)}, {date.today()}"
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "numpy", "peft", "sparseft"))
    above = [machine, f"python {platform.python_version()}, {packages}", *conditions]
    lines = [f"# {title}", "", *(f"- {line}" for line in above), ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines) + "\n")
