"""Assign the GPUs of this machine to jobs: one lock file per device. Each job locks its own share of the file.

A device has as many places as jobs may share it (resources.jobs_per_gpu). Snakemake counts places and assigns none.
Places of different sizes, of two studies, exclude each other if they overlap. Slurm and PBS show a job only its own
GPUs, and these are free.
"""

import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path

from cyclopts.types import NonNegativeInt, PositiveInt

from sparseft.common.errors import InputError
from sparseft.storage.locks import open_lock

LOCKS = Path("/tmp")  # Other jobs would not see locks in a job's own TMPDIR.
WHOLE = 1 << 40  # bytes of a lock file that stand for a whole device; the file itself is empty
FULL = 0.95  # of a GPU's memory; the driver and pieces between tensors take the rest, not measured
WAIT = 1  # seconds between two attempts while all devices are taken
JOBS_PER_GPU = "SPARSEFT_JOBS_PER_GPU"  # tells the processes that a job starts how many share its GPU
ANSWER = 60  # seconds that nvidia-smi has for an answer, which takes a few; a broken driver gives none
UUID = re.compile(r"^(\s*)\S.*\(UUID: ((?:GPU|MIG)-[^)]+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Gpus:
    """Say which GPUs a program takes.

    Args:
        gpus: places on GPUs to lock, of which a device has --jobs_per_gpu; 0 hides all devices. Without it, those of
            CUDA_VISIBLE_DEVICES are used, and not locked
        jobs_per_gpu: jobs that may share a GPU
    """

    gpus: NonNegativeInt | None = None
    jobs_per_gpu: PositiveInt = 1

    def take(self) -> None:
        """Lock the places, and let this process and those that it starts see only their GPUs.

        A job that takes all places of a device shares it with no other. Call it before CUDA is used, which reads
        CUDA_VISIBLE_DEVICES when it starts. Raises InputError if there are fewer GPUs."""
        # The processes of a training (torchrun) share the GPUs of the one that started them.
        if self.gpus is None or "LOCAL_RANK" in os.environ:
            return
        number, jobs = self.gpus, self.jobs_per_gpu
        if number >= jobs:
            number, jobs = number // jobs, 1
        os.environ[JOBS_PER_GPU] = str(jobs)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(number, visible_gpus(), jobs)) if number else ""


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
    """Return what nvidia-smi prints; nothing if there is none. Raises InputError if it does not end."""
    if shutil.which("nvidia-smi") is None:
        return ""
    process = subprocess.Popen(["nvidia-smi", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        return process.communicate(timeout=ANSWER)[0]
    except subprocess.TimeoutExpired:
        # Nothing waits for its end, because the driver may hold it for ever.
        process.kill()
        raise InputError(f"nvidia-smi gave no answer in {ANSWER} s", "restart the driver or the machine") from None


def sharing_jobs() -> int:
    """Return how many jobs may share the GPU of this process."""
    return int(os.environ.get(JOBS_PER_GPU, "1"))


def take(number: int, devices: list[str], jobs: int = 1, locks: Path = LOCKS) -> list[str]:
    """Wait until one of the `jobs` equal places of each of `number` of `devices` is free, lock them, and return the
    devices. The locks last until this process and its children have ended.

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
            for place, device in product(range(jobs), whole):
                if len(held) < number and device not in held:
                    start, end = (WHOLE * edge // jobs for edge in (place, place + 1))
                    held += [device] * _lock(locks / f"sparseft-{device}.lock", start, end, locked)
            if len(held) == number:
                # The descriptors stay open.
                locked.pop_all()
                return held
        if is_first:
            print(f"waits for a GPU: {locks}/sparseft-GPU-*.lock are held", file=sys.stderr, flush=True)
        is_first = False
        time.sleep(WAIT)


def _lock(file: Path, start: int, end: int, locked: ExitStack) -> bool:
    """Lock the bytes from `start` to `end` of a file until `locked` is closed. Return whether no other process holds
    one of them."""
    try:
        # Linux refuses O_CREAT for the file of another user in /tmp.
        descriptor = open_lock(file, flags=0)
    except FileNotFoundError:
        descriptor = open_lock(file)
        # Other users must be able to lock it, whatever the umask of this one is.
        os.fchmod(descriptor, 0o666)
    locked.callback(os.close, descriptor)
    os.set_inheritable(descriptor, True)
    # The lock is that of the open file, which children share. fcntl.lockf would lock for this process only.
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, start, end - start, 0))
    except BlockingIOError:
        return False
    return True
