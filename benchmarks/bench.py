"""Share what all benchmarks need: interleaved timing on one thread, and a report with the machine and a table.

tests/gpu uses the description of the GPU too.
"""

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from sparseft.models.language_model.hardware import device_name

RESULTS = Path(__file__).parent / "results"
# Milliseconds that a case takes per turn, or more if one call takes longer.
TURN = 200
CPU = torch.device("cpu")


def clock(device: torch.device) -> float:
    """Return a time in seconds: the CPU time of the process, or the time at which the GPU has finished its work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(cases: dict[str, Callable[[], object]], repeats: int, device: torch.device = CPU) -> dict[str, float]:
    """Return the median time of one call of each case, in milliseconds of the CPU or of the GPU.

    A turn calls every case, one after the other, so that other work on the machine disturbs all of them equally. A
    short case is called several times per turn, for at least TURN milliseconds. Otherwise the first call would
    dominate, which finds the caches as the case before it left them. The first turn is the warm-up."""
    calls = dict.fromkeys(cases, 1)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, case in cases.items():
            milliseconds = time_of(case, calls[name], device)
            if turn == 0:
                calls[name] = max(1, round(TURN / max(milliseconds, 0.01)))
            else:
                times[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in times.items()}


def time_of(case: Callable[[], object], calls: int, device: torch.device) -> float:
    """Return the milliseconds of one call, as the mean over several calls."""
    begin = clock(device)
    for _ in range(calls):
        case()
    return 1000 * (clock(device) - begin) / calls


def report(
    name: str, title: str, conditions: list[str], header: list[str], rows: list[list[str]], device: torch.device = CPU
) -> None:
    """Print the machine, the versions and the conditions above a table, and write the same to
    benchmarks/results/{name}.md."""
    text = page(title, conditions, header, rows, device)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def publish(
    name: str, title: str, conditions: list[str], header: list[str], rows: list[list[str]], device: torch.device
) -> None:
    """Do as `report` for a table of a GPU. A table of a CPU, which only shows that the program works, is printed."""
    if device.type == "cpu":
        print(page(title, conditions, header, rows, device))
    else:
        report(name, title, conditions, header, rows, device)


def page(title: str, conditions: list[str], header: list[str], rows: list[list[str]], device: torch.device) -> str:
    """Return a table in Markdown, with the machine, the versions and the conditions above it."""
    machine = f"{machine_of(device)}, {date.today()}"
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "numpy", "peft", "sparseft"))
    above = [machine, f"python {platform.python_version()}, {packages}", *conditions]
    lines = [f"# {title}", "", *(f"- {line}" for line in above), ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]
    return "\n".join(lines) + "\n"


def machine_of(device: torch.device) -> str:
    """Return the device's name. A GPU's has its driver, and the versions of CUDA and Triton, which decide its speed and
    bits."""
    if device.type == "cpu":
        return device_name(device)
    try:
        triton = f"triton {version('triton')}"
    except PackageNotFoundError:
        triton = "no triton"
    return f"{device_name(device)}, driver {driver()}, CUDA {torch.version.cuda}, {triton}"


def driver() -> str:
    """Return the version of NVIDIA's driver; "unknown" if nvidia-smi does not give it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[0] if lines else "unknown"


def missing_gpu() -> str | None:
    """Return why there is no GPU to use, in one line; None if there is one."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"no GPU: torch {torch.__version__} is built without CUDA (docs/gpu.md)"
    return f"no GPU: torch {torch.__version__} sees none (docs/gpu.md)"


def device_of(name: str) -> torch.device:
    """Return a device by its name. End the program with one line and code 1 if there is no GPU."""
    device = torch.device(name)
    if device.type == "cuda" and (reason := missing_gpu()):
        raise SystemExit(f"{reason}; nothing was measured")
    return device
