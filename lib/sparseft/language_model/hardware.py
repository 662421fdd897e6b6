"""What a measurement ran on: the device, its name, its peak memory."""

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

import sparseft
from sparseft.errors import InputError


def choose_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def limit_threads(threads: int) -> None:
    """Use that many CPU threads: parallel jobs share the cores, and sums depend on how they are split."""
    if not 1 <= threads <= 1024:
        raise InputError(f"--threads {threads}", "give a number from 1 to 1024")
    torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: a step's tensors go back to the kernel otherwise, and cost it a page fault a 4 KB.

    5 to 16 % of a step on a CPU, for 3 to 8 % more memory; elsewhere nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for option in (-1, -3) if mallopt else ():  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(option, 1 << 30)


@contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Have the system refuse this process more than `limit` bytes of private memory (Linux alone keeps to it).

    Where the machine itself has less, this process is the first that the system kills, from here on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def private_memory() -> int:
    """Bytes that count against `limited_memory`; 0 where the system does not keep to it."""
    status = Path("/proc/self/status")
    return 1024 * int(status.read_text().split("VmData:")[1].split()[0]) if status.exists() else 0


def memory_kills() -> int:
    """How many processes the system has killed for want of memory since it started; 0 where it does not say."""
    counters = Path("/proc/vmstat")
    lines = map(str.split, counters.read_text().splitlines()) if counters.exists() else ()
    return int(dict(lines).get("oom_kill", 0))


def device_name(device: torch.device) -> str:
    """Such as "GPU: NVIDIA H100" or "CPU: AMD EPYC, 1 thread"; goes beside every measured figure."""
    if device.type == "cuda":
        return f"GPU: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"CPU: {_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on the GPU, or the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers, by name."""
    packages = {name: version(name) for name in ("torch", "transformers")}
    # From the library that runs: an installed package's version may be that of another checkout.
    return {"python": platform.python_version(), **packages, "sparseft": sparseft.__version__}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0].strip() if names else platform.processor() or platform.machine()
