"""Measure once how fast a machine multiplies, writes and reads. The estimated hours rest on it.

A process of its own measures for about five seconds, because a plan imports no torch. The result is kept in the user's cache, in
a file per machine. Delete the file to measure again. A product is timed by the processor time of one thread, so that other
programs disturb it little.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import date
from pathlib import Path

from sparseft.planning.hours import SLOW, Speeds
from sparseft.storage.atomic import write_json
from sparseft.storage.reading import read_json

TOKENS, WIDTH = 512, 1024  # of the measured products
SECONDS = 0.7  # that a product is repeated
FILE_BYTES, FILES = 1 << 27, 4  # the fastest of several counts, because other programs disturb it
# What a job does beside its products takes one thread as long as products at this speed, in FLOP per second. It follows from
# whole jobs on an AMD EPYC (Zen 4), whose products reach 98e9 in float32 and 400e9 in bfloat16: 80e9 per second in a training in
# float32, and 200e9 to 230e9 in bfloat16 (docs/results.md).
OTHER_WORK = 400e9
A100 = 120e12  # FLOP per second of a GPU: 40 % of the peak of an A100, not measured
START, DOWNLOAD = 5, 30e6  # seconds, and bytes per second


def this_machine() -> tuple[Speeds, str]:
    """Return the speeds of jobs on this machine, and in words what they are. They are measured now if they are not kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = home / "sparseft" / f"speeds-{platform.node()}.json"
    if not file.exists():
        command = [sys.executable, "-m", "sparseft.planning.probe", str(file)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(command, env=environment, capture_output=True, check=False)
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_json(file)
        return speeds_of(kept), f"the speeds of {kept['machine']}, measured on {kept['date']}"
    return SLOW, f"the speeds of a slow machine, because {file} could not be written"


def speeds_of(kept: dict) -> Speeds:
    """Return the speeds of jobs on a machine from what `measured` returned there."""
    thread = {int(width): 1 / (1 / speed + 1 / OTHER_WORK) for width, speed in kept["products"].items()}
    return Speeds(thread, gpu=A100, disk=kept["disk"], download=DOWNLOAD, start=START)


def measured() -> dict:
    """Return the speeds of this machine: of products by the bytes of a weight, in FLOP per second, and of the disk, in bytes."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        disk = max(_disk_speed(Path(folder, "file")) for _ in range(FILES))
    return {
        "machine": platform.node(),
        "date": date.today().isoformat(),
        "products": {dtype.itemsize: _speed(dtype) for dtype in (torch.float32, torch.bfloat16)},
        "disk": disk,
    }


def _disk_speed(file: Path) -> float:
    """Return the bytes per second that are written to a file and read from it."""
    begin = time.perf_counter()
    file.write_bytes(bytes(FILE_BYTES))
    file.read_bytes()
    return 2 * FILE_BYTES / (time.perf_counter() - begin)


def _speed(dtype) -> float:
    """Return the FLOP per second of processor time of the fastest product."""
    import torch

    x, weight = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        begin = time.process_time()
        torch.mm(x, weight)
        fastest = min(fastest, time.process_time() - begin)
    return 2 * TOKENS * WIDTH**2 / fastest


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, measured())
