"""Run the scripts of a study's jobs in forks of one process that has imported what they need (preload.py).

Every job is a process of its own, with its own folder, environment, files and library. So no job sees what another one did.
Anything that is not a script of the project runs in Python itself (job_client.py). A variable that a library reads when it is imported, such
as HF_HUB_OFFLINE, has the value that it had here. What sparseft deletes from the environment when it is imported stays there.
The server ends when its stdin does, and removes its socket with the folder.

    python job_server.py SOCKET
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import sys
from importlib import import_module

from library import LIBRARY, VARIABLES, read_sources, use_path
from unsynced import write_unsynced


def serve(address: str) -> None:
    """Answer each connection in a fork, until stdin ends. Return in the process of a job, which then runs it."""
    # The kernel removes the processes that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    server.close()
                    return answer(connection)
    os.remove(address)
    os.rmdir(os.path.dirname(address))
    os._exit(0)


def answer(connection: socket.socket) -> None:
    """Send the exit code of the job that a connection asks for. Return in the process of the job."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile().readline())
    job = os.fork()
    if job == 0:
        prepare(request, files)
        return
    for file in files:
        os.close(file)
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


def prepare(request: dict, files: list[int]) -> None:
    """Give this process the standard files, the folder, the environment and the arguments of a job."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(VARIABLES | request["environment"])
    sys.argv = request["arguments"]
    use_path(os.path.dirname(sys.argv[0]), os.environ.get("PYTHONPATH") or LIBRARY)


def run() -> None:
    """Run the script of a job and end this process, without the second that freeing all modules takes."""
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    write_unsynced()
    import_module("preload")
    read_sources()
    serve(sys.argv[1])
    run()
