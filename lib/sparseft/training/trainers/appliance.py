"""Run a trainer on a Cerebras appliance: one at a time, with its failures told apart and its job cancelled at the end.

The trainer is a child process. What it printed decides what happens after a failure:

    BROKEN          the appliance or the connection to it broke; the trainer is started again, from its last checkpoint
    FULL            the disk or its quota is full, so every later job would fail too, after hours on the appliance
    anything else   the configuration or the input is wrong, or the failure is unknown; another attempt would fail again
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from uuid import uuid4

from sparseft.common.errors import TRACEBACK_PREFIX, InputError
from sparseft.storage.locks import lock_file, open_lock

# The label of every job. Each job has a new value, so that no other job is cancelled.
LABEL = "sparseft"
# A process whose child was killed exits with this code plus the signal's number.
KILLED = 128
# How often a trainer is started that loses its connection.
ATTEMPTS = 3
# Seconds that a trainer has to end by itself.
GRACE = 30
BROKEN = re.compile(
    r"\bUNAVAILABLE\b|Connection reset|ApplianceDeadlockError|WS_RT_GRPC_RELATED_ERROR"
    r"|http2.{0,200}?\b502\b|Socket closed"
)
FULL = re.compile(r"Disk quota exceeded|No space left on device|\berrno (= )?(122|28)\b", re.IGNORECASE)
WRONG = re.compile(r"^error: .*(union_tag_invalid|ImportError|ModuleNotFoundError|mgmt_address)", re.MULTILINE)


def cause(text: str) -> re.Pattern | None:
    """Return why a trainer that printed `text` ended: FULL, BROKEN, or None if another attempt would fail again."""
    # Tracebacks quote source lines and errors that were handled, which say nothing of the failure.
    text = re.sub(f"^{re.escape(TRACEBACK_PREFIX)}.*", "", text, flags=re.MULTILINE)
    if FULL.search(text):
        return FULL
    return BROKEN if BROKEN.search(text) and not WRONG.search(text) else None


def run(command: list[str], name: str, log: Path, *, stop: Path, lock: Path | None) -> int:
    """Run a trainer that prints into `log`, and hold `lock` meanwhile. Return 0, or 2 if the trainer said why it
    failed.

    A trainer that lost its connection is started again. SIGINT, SIGTERM and SIGHUP end the trainer and cancel its job
    on the appliance. A full disk concerns every job of the study, so its line stays in the file `stop`. Raises
    InputError for any other failure, and if `stop` exists."""
    _on_signals(_exit)
    if stop.exists():
        raise InputError(stop.read_text(), "")
    with held(lock, name) if lock else nullcontext(()) as inherited:
        for attempt in range(1, ATTEMPTS + 1):
            begin = log.stat().st_size
            code = _attend(command, inherited)
            if code == 0:
                return 0
            printed = log.read_bytes()[begin:].decode(errors="replace")
            fault = cause(printed)
            if fault is not BROKEN:
                break
            print(f"{name}: attempt {attempt} lost the appliance or the connection to it", file=sys.stderr)
    if fault is None and re.search("^error: ", printed, re.MULTILINE):
        return 2
    ended = f"{name} was killed by signal {-code}" if code < 0 else f"{name} ended with code {code}"
    what, advice = {
        BROKEN: (f"{ended} in {ATTEMPTS} attempts", "start snakemake again: it continues from the last checkpoint"),
        FULL: (f"the disk or its quota is full ({stop}, of {name})", "free space and start snakemake again"),
        None: (ended, "see what it printed"),
    }[fault]
    if fault is FULL:
        stop.write_text(f"{what}; {advice}")
    raise InputError(what, advice)


@contextmanager
def held(path: Path, name: str) -> Iterator[tuple[int]]:
    """Wait for a lock file and hold it. Yield its descriptor, for a child that must hold it too."""
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_lock(path), "a") as file:
        lock_file(file, f"{name} waits: {path} is held by another job")
        try:
            yield (file.fileno(),)
        finally:
            # A remaining process of the trainer may still have the file open.
            fcntl.flock(file, fcntl.LOCK_UN)


def _attend(command: list[str], inherited: tuple[int, ...]) -> int:
    """Run the trainer and return its exit code. Neither a process nor a job on the appliance remains after it."""
    label = f"{LABEL}={uuid4().hex}"
    # It inherits the lock, and so holds it even if this process is killed.
    process = subprocess.Popen([*command, label], stdout=sys.stderr, start_new_session=True, pass_fds=inherited)
    try:
        return process.wait()
    finally:
        _on_signals(signal.SIG_IGN)
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
        _on_signals(_exit)


def _on_signals(action: Callable | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, action)


def _exit(number: int, _: object) -> None:
    print("interrupted: a signal ended the training; start snakemake again", file=sys.stderr)
    sys.exit(KILLED + number)


def _cancel(label: str) -> None:
    """Cancel the appliance's jobs with this label, if csctl is installed. Print on stderr if that is not certain."""
    if shutil.which("csctl") is None:
        return
    listed = subprocess.run(["csctl", "get", "jobs"], capture_output=True, text=True, check=False)
    # A job's labels follow its name in its line.
    jobs = re.findall(rf"\b(wsjob-[a-z0-9]+)\b.*{label}", listed.stdout)
    codes = [subprocess.run(["csctl", "cancel", "job", job], stdout=sys.stderr, check=False).returncode for job in jobs]
    if listed.returncode or any(codes) or not jobs:
        print(f"no job was cancelled for certain: look for it with `csctl get jobs | grep {label}`", file=sys.stderr)
