"""Call functions and scripts in forks of the server of jobs.py.

Every call is a process of its own, with the folder and the environment of its test. A test may kill it.
"""

import base64
import os
import pickle
import runpy
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jobs import Process
from project import ROOT, job_server


def script(name: str, *words: object) -> None:
    """Run a script of the project in this process, which ends when the script does."""
    sys.argv = [str(ROOT / "workflow/scripts" / name), *map(str, words)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def call(function: Callable, *arguments: object, number: int = 1) -> tuple[int, str]:
    """Call function(*arguments) in `number` processes. Return their exit code, and all that they output."""
    with tempfile.NamedTemporaryFile("r") as output:
        code = wait(start(Path(output.name), function, *arguments, number=number))
        return code, output.read()


def start(output: Path, function: Callable, *arguments: object, number: int = 1) -> list[Process]:
    """Start `number` processes that call function(*arguments), and that add what they say to a file.

    Several processes can talk to one another, as those that torchrun starts."""
    words = ["call", base64.b64encode(pickle.dumps((function, arguments))).decode()]
    # The file of the function is looked for where pytest has found it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "lib"), *sys.path])}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    places = [torchrun_s_variables(rank, number, port) if number > 1 else {} for rank in range(number)]
    with open(os.devnull) as nothing, open(output, "a") as file:
        files = [nothing.fileno(), file.fileno(), file.fileno()]
        address = job_server(sys.executable)
        return [Process(address, words, files, str(Path.cwd()), environment | place) for place in places]


def torchrun_s_variables(rank: int, number: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun sets for one of several processes."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_PORT": port}
    return {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}


def wait(processes: list[Process]) -> int:
    """Wait until processes have ended. If one fails, kill the others. Return the first exit code that is not 0."""
    code, running = 0, list(processes)
    while running:
        for process in select.select(running, [], [])[0]:
            running.remove(process)
            ended = process.wait()
            if ended and not code:
                code = ended
                kill(running)
    return code


def are_alive(processes: list[Process]) -> bool:
    return all(process.is_alive() for process in processes)


def kill(processes: list[Process]) -> None:
    """Kill processes at once. One that has ended is left out."""
    for process in processes:
        # It may end at this moment.
        with suppress(ProcessLookupError):
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
