"""Assign the GPUs of this machine to jobs: a lock file per place on a device, held by the processes that use it.

A device has as many places as jobs may share it (resources.jobs_per_gpu). Snakemake counts places and assigns none.
Slurm and PBS show a job only its own GPUs, and these are free.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product, takewhile
from pathlib import Path

from sparseft.errors import InputError

LOCKS = Path("/tmp")  # Other jobs would not see locks in a job's own TMPDIR.
FULL = 0.95  # of a GPU's memory; the driver and pieces between tensors take the rest, not measured
WAIT = 1  # seconds between two attempts while all devices are taken
UUID = re.compile(r"^(\s*)\S.*\(UUID: ((?:GPU|MIG)-[^)]+)\)", re.MULTILINE)


def visible_gpus() -> list[str]:
    """Return the UUIDs of the NVIDIA GPUs that this process may use, in nvidia-smi's order.

    A divided GPU (MIG) is replaced by its parts. CUDA_VISIBLE_DEVICES has numbers or whole UUIDs."""
    uuids: list[str] = []
    for indent, uuid in UUID.findall(_nvidia_smi("-L")):
        if indent and uuids and uuids[-1].startswith("GPU-"):
            uuids.pop()
        uuids.append(uuid)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return uuids
    names = {str(number): uuid for number, uuid in enumerate(uuids)} | {uuid: uuid for uuid in uuids}
    # As CUDA does, stop at the first device that is unknown.
    words = takewhile(names.__contains__, map(str.strip, visible.split(",")))
    return list(dict.fromkeys(names[word] for word in words))


def smallest_gpu() -> int | None:
    """Return the bytes that a job can use of the smallest GPU that this process may use; None if they are not known.

    A part of a divided GPU (MIG) has the GB in its name, rounded up."""
    listed = _nvidia_smi("--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
    sizes = {uuid: int(mebibytes) << 20 for uuid, mebibytes in re.findall(r"(GPU-\S+), (\d+)", listed)}
    parts = re.findall(r"\.(\d+)gb.* \(UUID: (MIG-[^)]+)\)", _nvidia_smi("-L"))
    sizes |= {uuid: int(gigabytes) * 10**9 for gigabytes, uuid in parts}
    return min((int(FULL * sizes[uuid]) for uuid in visible_gpus() if uuid in sizes), default=None)


def _nvidia_smi(*arguments: str) -> str:
    """Return what nvidia-smi prints; nothing if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=False).stdout


def sharing_jobs() -> int:
    """Return how many jobs may share the GPU of this process."""
    return int(os.environ.get("SPARSEFT_JOBS_PER_GPU", "1"))


def take_requested() -> None:
    """Lock as many places as SPARSEFT_GPUS says, and let this process and those that it starts see only their GPUs.

    A job that requests all places of a device shares it with no other. It does so once, and before CUDA is used, which
    reads CUDA_VISIBLE_DEVICES when it starts."""
    if requested := os.environ.pop("SPARSEFT_GPUS", ""):
        number, jobs = int(requested), sharing_jobs()
        places = [[place] for place in range(jobs)]
        if number >= jobs:
            number, places = number // jobs, [list(range(jobs))]
            os.environ["SPARSEFT_JOBS_PER_GPU"] = "1"
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(number, visible_gpus(), places))


def take(number: int, devices: list[str], places: Sequence[Sequence[int]] = ((0,),), locks: Path = LOCKS) -> list[str]:
    """Wait until `number` of `devices` are free, lock them, and return them. The locks last until this process and its
    children have ended.

    places: the places of a device that are locked together, by preference

    The lock belongs to an open file, which stays open through exec. A job of several GPUs takes no part of a divided
    one (MIG), because CUDA shows a process one part, and NCCL connects none. Raises InputError if there are fewer
    devices."""
    whole = [device for device in devices if number == 1 or not device.startswith("MIG-")]
    if number > len(whole):
        parts = f", and {len(devices) - len(whole)} parts of divided GPUs (MIG), but a job can use only one part"
        raise InputError(
            f"the job needs {number} GPUs, and this machine has {len(whole)} for it"
            f" (nvidia-smi -L, CUDA_VISIBLE_DEVICES){parts * (len(devices) > len(whole))}",
            f"set resources.gpus to 0 for the CPU, or to at most {max(len(whole), min(1, len(devices)))}",
        )
    is_first = True
    while True:
        with ExitStack() as locked:
            held: list[str] = []
            for together, device in product(places, whole):
                if len(held) < number and device not in held:
                    files = [locks / f"sparseft-{device}.{place}.lock" for place in together]
                    held += [device] * _lock(files, locked)
            if len(held) == number:
                # The descriptors stay open.
                locked.pop_all()
                return held
        if is_first:
            print(f"waits for a GPU: {locks}/sparseft-GPU-*.lock are held", file=sys.stderr, flush=True)
        is_first = False
        time.sleep(WAIT)


def _lock(files: list[Path], locked: ExitStack) -> bool:
    """Lock all of some files until `locked` is closed, or none of them. Return whether no other process holds one.

    Read access is enough, because the file may belong to another user."""
    with ExitStack() as mine:
        for file in files:
            if not file.exists():
                file.touch()
                # Other users must be able to open the file, whatever the umask of this one is.
                file.chmod(0o644)
            descriptor = os.open(file, os.O_RDONLY)
            mine.callback(os.close, descriptor)
            os.set_inheritable(descriptor, True)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        locked.push(mine.pop_all())
    return True
