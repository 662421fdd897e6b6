"""The GPUs of this machine, and which job has which: a lock file a device, held by the processes that use it.

Snakemake counts GPUs and assigns none. Slurm and PBS show a job its own alone, and those are free.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from sparseft.errors import InputError

LOCKS = Path("/tmp")  # the machine's: under a job's own TMPDIR nobody else would see them
WAIT = 1  # seconds between looks at devices that are all taken
UUID = re.compile(r"^(\s*)\S.*\(UUID: ((?:GPU|MIG)-[^)]+)\)", re.MULTILINE)


def visible_gpus() -> list[str]:
    """UUIDs of the NVIDIA GPUs that this process may use, in nvidia-smi's order; of a divided one (MIG), of its parts."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    found: list[str] = []
    for indent, uuid in UUID.findall(listed.stdout):
        if indent and found and found[-1].startswith("GPU-"):
            found.pop()
        found.append(uuid)
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if asked is None else _chosen(found, asked)


def unused_gpus(number: int) -> str:
    """Return what to tell a user of a machine with GPUs whose configuration asks for none."""
    there = "1 GPU" if number == 1 else f"{number} GPUs"
    return (
        f"this machine has {there}, and resources.gpus is 0, so that every job runs on the CPU;"
        " to train on a GPU set resources.gpus: 1, as in --config 'resources={gpus: 1}'"
    )


def slow_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this is a CPU for which torch has no fast product of bfloat16, eight times slower than one of float32: an x86
    without AVX-512. What cannot be read is taken for fast."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return flags is not None and not {"avx512bw", "avx_ne_convert"} & set(flags[1].split())


def take(number: int, devices: list[str], locks: Path = LOCKS) -> list[str]:
    """Wait until `number` of `devices` are free; they are this process's, and its children's, until all have ended.

    A lock is that of an open file, which stays open through exec. Raises InputError where there are fewer devices."""
    if number > len(devices):
        raise InputError(
            f"the job asks for {number} GPUs, and this machine shows it {len(devices)} (nvidia-smi -L, CUDA_VISIBLE_DEVICES)",
            "set resources.gpus to 0, for the CPU, or to what is there",
        )
    waiting = False
    while True:
        held = _free(number, devices, locks)
        if len(held) == number:
            for descriptor in held.values():
                os.set_inheritable(descriptor, True)
            return list(held)
        for descriptor in held.values():
            os.close(descriptor)
        if not waiting:
            print(f"waits for a GPU: {locks}/sparseft-GPU-*.lock are held", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(WAIT)


def _free(number: int, devices: list[str], locks: Path) -> dict[str, int]:
    """Device -> the open file that locks it, of at most `number` that were free."""
    held: dict[str, int] = {}
    for device in devices:
        if len(held) < number and (descriptor := _locked(locks / f"sparseft-{device}.lock")) is not None:
            held[device] = descriptor
    return held


def _locked(path: Path) -> int | None:
    """An open file that holds the lock, or None where another has it. Read access is enough: the file may be another user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _chosen(found: list[str], asked: str) -> list[str]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or by the beginning of a UUID; as CUDA does, up to the first unknown."""
    chosen: list[str] = []
    for word in filter(None, map(str.strip, asked.split(","))):
        named = found[int(word) : int(word) + 1] if word.isdigit() else [u for u in found if u.startswith(word)]
        if len(named) != 1:
            break
        chosen += named
    return chosen
