"""Measure once how fast this machine multiplies, writes and reads. The estimated hours rest on it.

A process of its own measures for about five seconds, because a plan imports no torch. The result is kept in the user's
cache, in a file per machine. Delete the file to measure again. A product is timed by the processor time of one thread,
so that other programs disturb it little.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from timeit import repeat
from typing import NamedTuple

from sparseft.storage.atomic import write_json
from sparseft.storage.reading import read_json

TOKENS, WIDTH = 512, 1024  # of the measured products
# The fastest of several products and files counts, because other programs disturb it.
PRODUCTS, FILES, FILE_BYTES = 30, 4, 1 << 27
# What a job does beside its products takes one thread as long as products at this speed, in FLOP per second: an AMD
# EPYC (Zen 4) has 98e9 and 400e9 in products in float32 and bfloat16, and TYPICAL in whole jobs.
OTHER_WORK = 400e9


class Speeds(NamedTuple):
    """Hold the FLOP per second of a CPU thread by the bytes of a weight, and the bytes per second of a disk."""

    thread: Mapping[int, float]
    disk: float


# An AMD EPYC (Zen 4), from whole jobs (benchmarks/results).
TYPICAL = Speeds({4: 80e9, 2: 200e9}, disk=1e9)


def this_machine() -> tuple[Speeds, str]:
    """Return the speeds of jobs on this machine, measured now if they are not kept, and in words what they are."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = home / "sparseft" / f"speeds-{platform.node()}.json"
    if not file.exists():
        command = [sys.executable, "-m", "sparseft.study.planning.probe", str(file)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        subprocess.run(command, env=environment, capture_output=True, check=False)
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_json(file)
        thread = {int(width): 1 / (1 / speed + 1 / OTHER_WORK) for width, speed in kept["products"].items()}
        return Speeds(thread, kept["disk"]), f"the speeds of {kept['machine']}, measured on {kept['date']}"
    return TYPICAL, f"the speeds of an AMD EPYC, because {file} could not be written"


def measured() -> dict:
    """Return the speeds of products by the bytes of a weight, in FLOP per second, and of the disk, in bytes."""
    import torch

    torch.set_num_threads(1)
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
        seconds = repeat(partial(torch.mm, x, weight), timer=time.process_time, number=1, repeat=PRODUCTS)
        products[dtype.itemsize] = 2 * TOKENS * WIDTH**2 / min(seconds)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file = Path(folder, "file")
        seconds = repeat(lambda: (file.write_bytes(bytes(FILE_BYTES)), file.read_bytes()), number=1, repeat=FILES)
    disk = 2 * FILE_BYTES / min(seconds)
    return {"machine": platform.node(), "date": date.today().isoformat(), "products": products, "disk": disk}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, measured())
