"""GPUs of their own for jobs beside each other: real processes and locks, with a stand-in for nvidia-smi alone."""

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from sparseft.common.errors import InputError
from sparseft.models.language_model import gpus
from sparseft.models.language_model.gpus import FULL, Gpus, smallest_gpu, take, visible_gpus

TWO = "GPU 0: H100 (UUID: GPU-aa)\nGPU 1: H100 (UUID: GPU-bb)\n"
DIVIDED = (
    "GPU 0: A100 (UUID: GPU-aa)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\n  MIG 1g.5gb Device 1: (UUID: MIG-2)\n"
    "GPU 1: A100 (UUID: GPU-bb)\n"
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that says what nvidia-smi lists on this machine, and what CUDA_VISIBLE_DEVICES is."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def lists(text: str, sizes: str = "", visible: str | None = None) -> None:
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        answers = "".join(f"{case}) cat <<'END'\n{said}END\n;;\n" for case, said in (("-L", text), ("*", sizes)))
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncase $1 in\n{answers}esac\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return lists


@pytest.mark.process
@pytest.mark.parametrize(("listed", "asked", "found", "smallest"), [
    (TWO, None, ["GPU-aa", "GPU-bb"], 24564 << 20),
    (TWO, "1,0", ["GPU-bb", "GPU-aa"], 24564 << 20),
    (TWO, "0,0,GPU-aa", ["GPU-aa"], 81559 << 20),
    (TWO, "-1", [], None),
    (TWO, "0,7,1", ["GPU-aa"], 81559 << 20),
    (DIVIDED, None, ["MIG-1", "MIG-2", "GPU-bb"], 5 * 10**9),
    ("", None, [], None),
])  # fmt: skip
def test_what_a_process_may_use_is_what_the_driver_and_the_environment_say(machine, listed, asked, found, smallest):
    machine(listed, "GPU-aa, 81559\nGPU-bb, 24564\n", visible=asked)
    assert visible_gpus() == found
    assert smallest_gpu() == (smallest and int(FULL * smallest))


@pytest.mark.process
def test_a_driver_that_gives_no_answer_is_refused(machine, monkeypatch, tmp_path):
    machine(TWO)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 3\n")
    monkeypatch.setattr(gpus, "ANSWER", 0.1, raising=False)
    with pytest.raises(InputError, match="nvidia-smi gave no answer in 0.1 s; restart"):
        visible_gpus()


def started(number: int, jobs: int, locks: Path, seconds: float) -> subprocess.Popen:
    """A job on one of `jobs` places of `number` of two devices that prints when it begins and ends, and on what."""
    code = f"""
import os, subprocess, time
from pathlib import Path
from sparseft.models.language_model.gpus import take
held = take({number}, ["GPU-aa", "GPU-bb"], {jobs}, Path({str(locks)!r}))
begin = time.monotonic()
os.execvp("sh", ["sh", "-c", f"sleep {seconds}; echo {{begin}} $(cut -d' ' -f1 /proc/uptime) {{' '.join(held)}}"])
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_jobs_beside_each_other_have_different_devices_and_the_rest_wait(tmp_path):
    jobs = [started(number, 1, tmp_path, 0.7) for number in (1, 1, 2, 1)]
    spans = [line.split() for line in (job.communicate(timeout=60)[0] for job in jobs)]
    assert sorted(len(held) for _, _, *held in spans) == [1, 1, 1, 2]
    uses = [(device, float(begin), float(end)) for begin, end, *held in spans for device in held]
    for device in ("GPU-aa", "GPU-bb"):
        mine = sorted((begin, end) for used, begin, end in uses if used == device)
        assert mine
        assert all(end <= begin + 0.02 for (_, end), (begin, _) in pairwise(mine))


@pytest.mark.parametrize(("shares", "fit"), [
    ((2, 2), True), ((2, 2, 2), False), ((2, 1), False), ((2, 3), True), ((2, 3, 3), False), ((2, 4, 4), True),
])  # fmt: skip
def test_the_shares_of_studies_with_other_numbers_of_jobs_do_not_overlap(monkeypatch, tmp_path, shares, fit):
    def wait(_: float) -> None:
        waits.append(True)
        raise InputError("the last job waits", "")

    waits: list[bool] = []
    for name in ("CUDA_VISIBLE_DEVICES", gpus.JOBS_PER_GPU):
        monkeypatch.setenv(name, "1")
    for name, value in (("sleep", wait), ("visible_gpus", lambda: ["GPU-aa"]), ("take", partial(take, locks=tmp_path))):
        monkeypatch.setattr(gpus.time if name == "sleep" else gpus, name, value)
    for jobs in shares:
        assert not waits
        with suppress(InputError):
            Gpus(1, jobs).take()
    assert bool(waits) == (not fit)


@pytest.mark.parametrize(("requested", "jobs", "taken"), [(2, 1, (2, 1)), (1, 3, (1, 3)), (3, 3, (1, 1))])
def test_a_job_with_all_places_of_a_gpu_shares_it_with_no_other(monkeypatch, requested, jobs, taken):
    for name in ("CUDA_VISIBLE_DEVICES", gpus.JOBS_PER_GPU):
        monkeypatch.setenv(name, "1")
    calls = []
    monkeypatch.setattr(gpus, "take", lambda number, _, jobs: calls.append((number, jobs)) or ["GPU-aa"])
    Gpus(requested, jobs).take()
    assert calls == [taken]
    assert gpus.sharing_jobs() == taken[1]


def test_the_next_user_can_open_the_lock_file_of_one_with_a_private_umask(tmp_path):
    umask = os.umask(0o077)
    try:
        take(1, ["GPU-aa"], locks=tmp_path)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    assert (tmp_path / "sparseft-GPU-aa.lock").stat().st_mode & 0o777 == 0o666


def test_a_job_of_several_gpus_takes_no_part_of_a_divided_one(tmp_path):
    devices = ["MIG-1", "MIG-2", "GPU-bb"]
    with pytest.raises(InputError, match=r"needs 2 GPUs, and this machine has 1 for it .*, and 2 parts .*at most 1$"):
        take(2, devices, locks=tmp_path)
    assert take(1, devices, locks=tmp_path) == ["MIG-1"]


USER = """
import os, sys
from sparseft.common.command import run
from sparseft.models.language_model.gpus import Gpus
from sparseft.models.language_model.hardware import start
def main() -> None:
    print("imported", flush=True)
    start(1, Gpus(1))
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
run(main)
"""


@pytest.mark.slow
def test_a_program_locks_the_gpus_of_its_job_when_it_starts_and_sees_no_others(machine, monkeypatch):
    machine(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    lock = gpus.LOCKS / "sparseft-GPU-bb.lock"
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        job = subprocess.Popen([sys.executable, "-c", USER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # All imports are done before it waits.
        assert job.stdout.readline() == "imported\n"
        assert job.stderr.readline().startswith("waits for a GPU")
    said, _ = job.communicate(timeout=60)
    assert said == "GPU-bb\n"
    lock.unlink()


@pytest.mark.parametrize(("variables", "requested", "visible"), [
    ({}, 0, ""), ({}, None, "GPU-aa"), ({"LOCAL_RANK": "1"}, 1, "GPU-aa"),
])  # fmt: skip
def test_what_takes_no_gpu_sees_none_and_a_process_of_a_training_those_of_its_parent(
    monkeypatch, variables, requested, visible
):
    for name, value in ({"CUDA_VISIBLE_DEVICES": "GPU-aa", gpus.JOBS_PER_GPU: "1"} | variables).items():
        monkeypatch.setenv(name, value)
    Gpus(requested).take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
