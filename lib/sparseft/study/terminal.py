"""Say in the terminal how far a job is, why one failed, and what a study found."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparseft.axes.grid import FINDINGS, REPORT

# What bash says of a process that SIGKILL ended.
KILLED = re.compile(r": line \d+: +\d+ Killed ")
# What a job says of its steps, decoder layers or matrices.
PROGRESS = re.compile(r"[a-z ]+ \d+ of \d+\b")
MEMORY = "error: the job was killed, as Linux does if memory runs out; request more memory, or lower its batch size"


def failure(rule: str, logs: Sequence[str]) -> str:
    """Return a failed job, what is wrong and its logs on one line. The first log is its own, and the others are the
    queue's."""
    lines = _lines(Path(logs[0]))
    # command.py prints both.
    errors = [line for line in lines if line.startswith("error: ") or line == "interrupted"]
    errors = errors or [MEMORY for line in lines if KILLED.search(line)] or ["error: it failed"]
    if errors[-1] == "interrupted":
        errors.append("interrupted; give the same command again to go on")
    return f"{rule}: {errors[-1]} (log: {', '.join(logs)})"


def progress(logs: Iterable[Path]) -> str:
    """Return the name of the log that was written last, and its last line that says how far the job is; empty if there
    is none."""
    log = max(filter(Path.is_file, logs), key=lambda log: log.stat().st_mtime, default=Path())
    return next((f"{log.stem}: {line}" for line in reversed(_lines(log)) if PROGRESS.match(line)), "")


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []


def findings(folder: Path) -> str:
    """Return the findings of a study, and where its results page is."""
    file, page = folder / FINDINGS, folder / REPORT
    text = file.read_text(encoding="utf-8").rstrip() + "\n" if file.exists() else ""
    return text + (f"The results page: {page}" if page.exists() else f"Tables, figures and pages: {folder}/")
