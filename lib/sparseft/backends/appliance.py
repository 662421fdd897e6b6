"""Run a trainer on a Cerebras appliance: one at a time, with its failures classified and its job cancelled at the end.

The trainer is a child process. What it printed decides what happens after a failure:

    RETRY      the appliance or the connection to it broke; the training continues from its last checkpoint
    STOP       the disk or its quota is full, so every later job would fail too, after hours on the appliance
    PERMANENT  the configuration or the input is wrong, or the failure is unknown; another attempt would fail again
"""

import enum
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from uuid import uuid4

from sparseft.errors import TRACEBACK_PREFIX, InputError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The label of every job. Each job has a new value, so that no other job is cancelled.
LABEL = "sparseft"
# A process whose child was killed exits with this code plus the signal's number.
KILLED = 128
# Seconds that a trainer has to end by itself.
GRACE = 30
BROKEN = re.compile(
    r"\bUNAVAILABLE\b|Connection reset|ApplianceDeadlockError|WS_RT_GRPC_RELATED_ERROR|http2.{0,200}?\b502\b|Socket closed"
)
FULL = re.compile(r"Disk quota exceeded|No space left on device|\berrno (= )?(122|28)\b", re.IGNORECASE)
WRONG = re.compile(r"^error: .*(union_tag_invalid|ImportError|ModuleNotFoundError|mgmt_address)", re.MULTILINE)


class Failure(enum.Enum):
    """Say what to do about a trainer that failed."""

    RETRY = "retry"
    STOP = "stop"
    PERMANENT = "permanent"


def classify(text: str) -> Failure:
    """Return the class of a failure, from what the trainer printed."""
    if FULL.search(text):
        return Failure.STOP
    if BROKEN.search(text) and not WRONG.search(text):
        return Failure.RETRY
    return Failure.PERMANENT


def run(command: list[str], name: str, log: Path, *, stop: Path, lock: Path | None, attempt: int) -> int:
    """Run a trainer that prints into `log`, and hold `lock` meanwhile.

    Return 0 if it succeeded, 75 if another attempt may help, and 2 if not. SIGINT, SIGTERM and SIGHUP end the trainer and
    cancel its job on the appliance. The line of a failure that another attempt cannot help stays in a file: in `stop` if it
    concerns every job of the study, else beside the log. Raises InputError with an earlier such line. The first attempt
    forgets the job's own."""
    for number in SIGNALS:
        signal.signal(number, lambda number, _: sys.exit(KILLED + number))
    failed = log.with_suffix(".failed")
    if attempt == 1:
        failed.unlink(missing_ok=True)
    for path in (stop, failed):
        if path.exists():
            what, _, remedy = path.read_text().rpartition("; ")
            raise InputError(what, remedy)
    label = f"{LABEL}={uuid4().hex}"
    begin = log.stat().st_size
    try:
        with held(lock, name) if lock else nullcontext(()) as inherited:
            code = _attend([*command, label], label, inherited)
    except SystemExit:
        line = f"{name} was ended by a signal; start snakemake again"
        failed.write_text(line)
        print(f"interrupted: {line}", file=sys.stderr)
        raise
    if code == 0:
        return 0
    with open(log, errors="replace") as file:
        file.seek(begin)
        # A traceback quotes source lines and errors that were handled, which say nothing of the failure.
        printed = "".join(line for line in file if not line.startswith(TRACEBACK_PREFIX))
    failure = classify(printed)
    error_lines = re.findall("^error: (.*)$", printed, re.MULTILINE)
    ended = f"{name} was killed by signal {-code}" if code < 0 else f"{name} ended with code {code}"
    line = {
        Failure.RETRY: f"{ended}: the appliance or the connection broke; another attempt continues from the last checkpoint",
        Failure.STOP: f"the disk or its quota is full ({stop}, of {name}); free space and start snakemake again",
        Failure.PERMANENT: error_lines[-1] if error_lines else f"{ended}; see what it printed",
    }[failure]
    if failure is not Failure.RETRY:
        path = stop if failure is Failure.STOP else failed
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line)
    if line not in error_lines:
        print(f"error: {line}", file=sys.stderr)
    return os.EX_TEMPFAIL if failure is Failure.RETRY else 2


@contextmanager
def held(path: Path, name: str) -> Iterator[tuple[int]]:
    """Wait for a lock file and hold it. Yield its descriptor, for a child that must hold it too."""
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name} waits: {path} is held by another job", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield (file.fileno(),)
        finally:
            # A remaining process of the trainer may still have the file open.
            fcntl.flock(file, fcntl.LOCK_UN)


def _attend(command: list[str], label: str, inherited: tuple[int, ...]) -> int:
    """Run the trainer and return its exit code. Neither a process nor a job on the appliance remains after it."""
    try:
        # It inherits the lock, and so holds it even if this process is killed.
        process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True, pass_fds=inherited)
    except FileNotFoundError:
        raise InputError(
            f"{command[0]}: no such program",
            "`make .venv-cerebras/installed-2.10.0` builds its environment, or set cerebras.python",
        ) from None
    try:
        return process.wait()
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        is_running = process.poll() is None
        if is_running:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        # A trainer that is killed cannot cancel its own job.
        if is_running or process.returncode < 0 or process.returncode > KILLED:
            _cancel(label)


def _cancel(label: str) -> None:
    """Cancel the appliance's jobs with this label, if csctl is installed. Print on stderr if that is not certain."""
    if shutil.which("csctl") is None:
        return
    listed = subprocess.run(["csctl", "get", "jobs"], capture_output=True, text=True, check=False)
    own_lines = [line for line in listed.stdout.splitlines() if label in line]
    jobs = [match[0] for line in own_lines if (match := re.search(r"\bwsjob-[a-z0-9]+", line))]
    codes = [subprocess.run(["csctl", "cancel", "job", job], stdout=sys.stderr, check=False).returncode for job in jobs]
    if listed.returncode or any(codes) or not jobs:
        print(f"no job was cancelled for certain: look for it with `csctl get jobs | grep {label}`", file=sys.stderr)
