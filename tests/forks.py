"""Call functions and scripts in forks of one process that has imported what they need (jobs.py).

Every call is a process of its own, with the folder and the environment of its test. A test may kill it.
"""

import atexit
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import connection, forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from jobs import IMPORTED, VARIABLES
from project import ROOT
from tiny_models import MODELS

# A fork imports the file of the function that it calls, and with it what the tests import.
OF_TESTS = ("pytest", *(f"transformers.models.{name}.modeling_{name}" for name in MODELS))
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload([*OF_TESTS, *IMPORTED])


def script(name: str, *words: object) -> None:
    """Run a script of the project in this process, which ends when the script does."""
    sys.argv = [str(ROOT / "workflow/scripts" / name), *map(str, words)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def call(function: Callable, *arguments: object, number: int = 1) -> tuple[int, str]:
    """Call function(*arguments) in `number` processes. Return their exit code, and all that they said."""
    with tempfile.NamedTemporaryFile("r") as said:
        code = wait(start(Path(said.name), function, *arguments, number=number))
        return code, said.read()


def start(said: Path, function: Callable, *arguments: object, number: int = 1) -> list[BaseProcess]:
    """Start `number` processes that call function(*arguments), and that add what they say to a file.

    Several processes can talk to one another, as those that torchrun starts."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        # The server of multiprocessing ignores this process's sys.path. Without PYTHONPATH it finds no file of tests/.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    places = [torchrun_s_variables(rank, number, port) if number > 1 else {} for rank in range(number)]
    processes = [CONTEXT.Process(target=_run, args=(said, os.environ | place, function, arguments)) for place in places]
    for process in processes:
        process.start()
    return processes


def torchrun_s_variables(rank: int, number: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun sets for one of several processes."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    return {**{name: str(value) for name, value in ranks.items()}, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _run(said: Path, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    """Give this process its environment and the file for what it says, and call the function."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(VARIABLES | environment)
    os.fsync = lambda descriptor: None
    try:
        function(*arguments)
    finally:
        # A process of multiprocessing ends without these. The scripts remove their locks in them.
        atexit._run_exitfuncs()


def wait(processes: list[BaseProcess]) -> int:
    """Wait until processes have ended. If one fails, kill the others. Return the first exit code that is not 0."""
    code = 0
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in connection.wait(running):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode and not code:
                code = process.exitcode
                kill(list(running.values()))
    return code


def kill(processes: list[BaseProcess]) -> None:
    """Kill processes at once."""
    for process in processes:
        process.kill()
