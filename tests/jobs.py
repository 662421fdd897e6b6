"""Run Snakemake and the scripts of its jobs in forks of one process that has imported what they import.

A script needs seconds for its imports, and a study has dozens of jobs. Each run is a process of its own, with its own
folder, environment, files and library, so no run sees what another one did. The server ends with the process that
started it.

    python jobs.py --serve SOCKET
    python jobs.py SOCKET SCRIPT [ARGUMENTS]     run a script of the project there, any other command in Python itself
    python jobs.py SOCKET snakemake [ARGUMENTS]

tests/forks.py calls functions there.
"""

import json
import os
import select
import socket
import sys

# Libraries read these when they are imported.
VARIABLES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
IMPORTED = (
    "jinja2 pandas snakemake.cli snakemake.report snakemake.workflow transformers.models.llama.modeling_llama"
    " sparseft.analysis.figures sparseft.analysis.pages sparseft.training.trainers.torch sparseft.common.command"
    " sparseft.evaluation.evaluate sparseft.training.lora.merge sparseft.pruning.masks.validation"
    " sparseft.study.inputs sparseft.study.planning.requests"
    " sparseft.pruning.mask_generator sparseft.study.targets"
).split()


class Process:
    """Run a command in the server, with these standard files."""

    def __init__(self, address: str, words: list[str], files: list[int], folder: str, environment: dict) -> None:
        """Start it. Its number is `pid`."""
        content = {"folder": folder, "environment": environment, "arguments": words}
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(address)
        socket.send_fds(self.connection, [b"\n"], files)
        self.connection.sendall(f"{json.dumps(content)}\n".encode())
        # Unbuffered, so that the exit code stays in the connection until it is read.
        self.answers = self.connection.makefile("rb", buffering=0)
        self.pid = int(self.answers.readline())

    def fileno(self) -> int:
        """Return the file that can be read when the process has ended."""
        return self.connection.fileno()

    def is_alive(self) -> bool:
        """Return whether the process has not ended."""
        return not select.select([self], [], [], 0)[0]

    def wait(self) -> int:
        """Return the exit code at the end, which is negative for a signal."""
        with self.connection, self.answers:
            return int(self.answers.readline())


def serve(address: str) -> None:
    """Answer each request in a fork, until stdin ends. Return in the process of a run, with its arguments in
    sys.argv."""
    import gc
    import signal
    from importlib import import_module

    os.environ |= VARIABLES
    # No test needs its files after a power failure.
    os.fsync = lambda descriptor: None
    for name in IMPORTED:
        import_module(name)
    # A collection of garbage writes to every object, so the kernel would copy the memory that the forks share.
    gc.freeze()
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
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _, files, _, _ = socket.recv_fds(connection, 1, 3)
                    content = json.loads(connection.makefile().readline())
                    if (run := os.fork()) == 0:
                        return prepare(content, files)
                    connection.sendall(f"{run}\n".encode())
                    code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
                    connection.sendall(f"{code}\n".encode())
                    os._exit(0)
    os._exit(0)


def prepare(content: dict, files: list[int]) -> None:
    """Give this process the standard files, the folder, the environment, the library and the arguments of a run."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(content["folder"])
    os.environ.clear()
    os.environ.update(VARIABLES | content["environment"])
    sys.argv = content["arguments"]
    if sys.argv[0] == "snakemake":
        # Snakemake starts its jobs with this interpreter.
        sys.executable = os.environ.get("JOBS_PYTHON", sys.executable)
    library, *others = os.environ["PYTHONPATH"].split(os.pathsep)
    os.environ["PYTHONPATH"] = library
    if not sys.modules["sparseft"].__file__.startswith(library):
        # A copy of the project. Forget what was imported of this one.
        for name in [name for name in sys.modules if name.partition(".")[0] == "sparseft"]:
            del sys.modules[name]
    sys.path[0] = os.path.dirname(sys.argv[0])
    sys.path[1:1] = [library, *others]


def run() -> None:
    """Run Snakemake, a function or a script, and end this process, without the second that freeing all modules
    takes."""
    import atexit
    import base64
    import pickle
    import runpy

    code = 0
    try:
        if sys.argv[0] == "snakemake":
            sys.modules["snakemake.cli"].main()
        elif sys.argv[0] == "call":
            function, arguments = pickle.loads(base64.b64decode(sys.argv[1]))
            function(*arguments)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # The scripts remove their locks in these.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    if address == "--serve":
        serve(arguments[0])
        run()
    if not arguments or "/workflow/scripts/" not in arguments[0]:
        os.execv(sys.executable, [sys.executable, *arguments])
    code = Process(address, arguments, [0, 1, 2], os.getcwd(), dict(os.environ)).wait()
    # A shell reports a signal as 128 + its number.
    sys.exit(code if code >= 0 else 128 - code)
