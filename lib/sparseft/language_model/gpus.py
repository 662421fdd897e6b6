"""Assign the GPUs of this machine to jobs: a lock file per device, held by the processes that use it.

Snakemake counts GPUs and assigns none. Slurm and PBS show a job only its own GPUs, and these are free.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import takewhile
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


def take_requested() -> None:
    """Lock as many GPUs as SPARSEFT_GPUS says, and let this process and those that it starts see only them.

    It does so once, and before CUDA is used, which reads CUDA_VISIBLE_DEVICES when it starts."""
    if requested := os.environ.pop("SPARSEFT_GPUS", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(int(requested), visible_gpus()))


def take(number: int, devices: list[str], locks: Path = LOCKS) -> list[str]:
    """Wait until `number` of `devices` are free, lock them, and return them. The locks last until this process and its
    children have ended.

    The lock belongs to an open file, which stays open through exec. A job of several GPUs takes no part of a divided one
    (MIG), because CUDA shows a process one part, and NCCL connects none. Raises InputError if there are fewer
    devices."""
    whole = [device for device in devices if number == 1 or not device.startswith("MIG-")]
    if number > len(whole):
        parts = f", and {len(devices) - len(whole)} parts of divided GPUs (MIG), but a job can use only one part"
        raise InputError(
            f"the job needs {number} GPUs, and this machine has {len(whole)} for it (nvidia-smi -L, CUDA_VISIBLE_DEVICES)"
            + parts * (len(devices) > len(whole)),
            f"set resources.gpus to 0 for the CPU, or to at most {max(len(whole), min(1, len(devices)))}",
        )
    is_first = True
    while True:
        held: dict[str, int] = {}
        for device in whole:
            if len(held) < number and (descriptor := _locked(locks / f"sparseft-{device}.lock")) is not None:
                held[device] = descriptor
        if len(held) == number:
            for descriptor in held.values():
                os.set_inheritable(descriptor, True)
            return list(held)
        for descriptor in held.values():
            os.close(descriptor)
        if is_first:
            print(f"waits for a GPU: {locks}/sparseft-GPU-*.lock are held", file=sys.stderr, flush=True)
        is_first = False
        time.sleep(WAIT)


def _locked(path: Path) -> int | None:
    """Return the descriptor of a file that is now locked, or None if another process holds the lock.

    Read access is enough, because the file may belong to another user."""
    if not path.exists():
        path.touch()
        # Other users must be able to open the file, whatever the umask of this one is.
        path.chmod(0o644)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
