"""Run a program of another environment, such as an engine, and read what it wrote."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sparseft.common.errors import InputError, one_line
from sparseft.serving import engine_process
from sparseft.serving.settings import ADVICE, Export

A = TypeVar("A")


def call_engine(engine: str, python: str, request: dict[str, Any], settings: Export, read: Callable[[Path], A]) -> A:
    """Return what `read` makes of the answer of an engine to a request, as engine_process.py describes both.

    The answer is in a new folder, so it is that of this process, or absent."""
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        question.write_text(json.dumps(request))
        command = [python, "-I", engine_process.__file__, engine, str(question), str(answer)]
        what, threads = f"export.engines: {engine}:{python}", str(request.get("threads", 1))
        return run_program(command, partial(read, answer), what, ADVICE, settings, OMP_NUM_THREADS=threads)


def read_version(answer: Path) -> str:
    """Return the version in the answer of an engine that has no request."""
    return str(json.loads(answer.read_text())["version"])


def run_program(
    command: list[str], read: Callable[[], A], what: str, advice: str, settings: Export, **variables: str
) -> A:
    """Run a program of another environment, and return what `read` reads of what it wrote.

    Raises InputError, with the last line that it printed, if it fails, takes too long, or wrote something else."""
    # A program of another environment must not import this project's modules.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            if (code := process.wait(settings.limit_seconds)) == 0:
                return read()
            fault = f"exit code {code}"
        except subprocess.TimeoutExpired:
            fault = f"not done after {settings.limit_seconds} seconds (export.limit_seconds)"
        # What another program wrote may raise any error.
        except Exception as error:
            fault = error.args[0] if isinstance(error, InputError) else one_line(error)
        finally:
            # It may have started others, which are in its group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        *others, last = output.read().decode(errors="replace").strip().splitlines() or ["nothing"]
    sys.stderr.writelines(f"{line}\n" for line in others)
    raise InputError(f"{what}: {fault}; it printed last: {last[:300]}", advice)
