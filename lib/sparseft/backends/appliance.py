"""A trainer beside a Cerebras appliance: one at a time, its failures told apart, its job cancelled when it is ended.

The trainer is a child process. What it printed says what to do after a failure:

    RETRY      the appliance or the way to it broke; the training goes on from its last checkpoint
    STOP       the disk is full, or its quota: whatever comes next fails too, and hours on the wafer with it
    PERMANENT  the configuration, the input, or what nobody foresaw: again would be the same again
"""

import enum
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sparseft.errors import TRACEBACK_PREFIX, InputError

_HOLDER = re.compile(r", process \d+ on ")  # in a lock: who has or had it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LABEL = "sparseft"  # of every job; its value is new for each, so that no other's is cancelled
KILLED = 128  # and the signal's number, of a process whose own child was killed
GRACE = 30  # seconds that a trainer has to end by itself
BROKEN = re.compile(
    r"\bUNAVAILABLE\b|Connection reset|ApplianceDeadlockError|WS_RT_GRPC_RELATED_ERROR|http2.{0,200}?\b502\b|Socket closed"
)
FULL = re.compile(r"Disk quota exceeded|No space left on device|\berrno (= )?(122|28)\b", re.IGNORECASE)
WRONG = re.compile(r"^error: .*(union_tag_invalid|ImportError|ModuleNotFoundError|mgmt_address)", re.MULTILINE)


class Failure(enum.Enum):
    """What to do about a trainer that failed."""

    RETRY = "retry"
    STOP = "stop"
    PERMANENT = "permanent"


def classify(text: str) -> Failure:
    """The class of a failure by what the trainer printed."""
    if FULL.search(text):
        return Failure.STOP
    return Failure.RETRY if BROKEN.search(text) and not WRONG.search(text) else Failure.PERMANENT


@dataclass(frozen=True)
class Memory:
    """What earlier jobs left to know: `own` of this one's last attempt, `common` of any job of the study."""

    own: Path
    common: Path

    def check(self, attempt: int) -> None:
        """Raises InputError where trying is of no use."""
        if attempt == 1:
            self.own.unlink(missing_ok=True)
        for path in (self.common, self.own):
            if path.exists():
                raise InputError(*path.read_text().rpartition("; ")[::2])

    def keep(self, failure: Failure, line: str) -> None:
        if failure is not Failure.RETRY:
            path = self.common if failure is Failure.STOP else self.own
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line)


def run(command: list[str], name: str, log: Path, *, memory: Memory, lock: Path | None, attempt: int) -> int:
    """Run a trainer that prints into `log`, holding `lock`; returns 0, 75 where it is worth another attempt, else 2.

    SIGINT, SIGTERM and SIGHUP end the trainer and cancel its job on the appliance."""
    for number in SIGNALS:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    memory.check(attempt)
    label, begin = f"{LABEL}={uuid4().hex}", log.stat().st_size
    try:
        with held(lock, name) if lock else nullcontext(()) as inherited:
            code = _attend([*command, label], label, inherited)
    except SystemExit:
        line = f"{name} was ended from outside; start snakemake again"
        memory.keep(Failure.PERMANENT, line)
        print(f"interrupted: {line}", file=sys.stderr)
        raise
    if code == 0:
        return 0
    with open(log, errors="replace") as file:
        file.seek(begin)
        # A traceback quotes source lines and errors that were dealt with, which say nothing of this failure.
        printed = "".join(line for line in file if not line.startswith(TRACEBACK_PREFIX))
    failure, told = classify(printed), re.findall("^error: (.*)$", printed, re.MULTILINE)
    line = told[-1] if told and failure is Failure.PERMANENT else _explained(name, code, failure, memory.common)
    memory.keep(failure, line)
    if line not in told:
        print(f"error: {line}", file=sys.stderr)
    return os.EX_TEMPFAIL if failure is Failure.RETRY else 2


@contextmanager
def held(path: Path, name: str) -> Iterator[tuple[int]]:
    """Hold a lock file, waiting until it is free; yields its descriptor, for a child that must hold it too.

    Raises InputError for a file that is something else."""
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"{name} waits: {path} is held by {file.read() or 'another job'}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if (content := file.read()) and not _HOLDER.search(content):
            raise InputError(f"{path}: is no lock, it has content", "name another file as cerebras.lock")
        file.truncate(0)
        file.write(f"{name}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield (file.fileno(),)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # also where something of the trainer is left that has it open


def _attend(command: list[str], label: str, inherited: tuple[int, ...]) -> int:
    """Run the trainer, and leave nothing of it behind."""
    try:
        process = subprocess.Popen(
            command,
            stdout=sys.stderr,
            start_new_session=True,
            pass_fds=inherited,  # where this process is killed, the trainer still holds it
        )
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
        ended = process.poll() is None
        if ended:
            _end(process)
        if ended or process.returncode < 0 or process.returncode > KILLED:  # who is killed leaves its job behind
            _cancel(label)


def _end(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cancel(label: str) -> None:
    """Cancel the appliance's jobs that carry `label`, where csctl is there to do it; says on stderr where it could not."""
    if shutil.which("csctl") is None:
        return
    listed = subprocess.run(["csctl", "get", "jobs"], capture_output=True, text=True, check=False)
    jobs = [job[0] for line in listed.stdout.splitlines()
            if label in line and (job := re.search(r"\bwsjob-[a-z0-9]+", line))]  # fmt: skip
    done = [subprocess.run(["csctl", "cancel", "job", job], stdout=sys.stderr, check=False).returncode for job in jobs]
    if listed.returncode or any(done) or not jobs:
        print(f"no job was cancelled for certain: look for it with `csctl get jobs | grep {label}`", file=sys.stderr)


def _explained(name: str, code: int, failure: Failure, common: Path) -> str:
    """What happened, and what to do about it."""
    ended = f"{name} was killed by signal {-code}" if code < 0 else f"{name} ended with code {code}"
    return {
        Failure.RETRY: f"{ended}: the appliance or the way to it broke; it goes on from its last checkpoint when tried again",
        Failure.STOP: f"the disk or its quota is full ({common}, of {name}); free space and start snakemake again",
        Failure.PERMANENT: f"{ended}; see what it printed",
    }[failure]
