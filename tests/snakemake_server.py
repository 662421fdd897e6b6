"""Import Snakemake once and fork for each run, so that a plan takes a third of the time of `snakemake --dry-run`.

Every run has its own process, so no run sees the library or the settings of another. Each request is a line of JSON with
the folder, the library, the environment, the arguments and the file for Snakemake's output. The answer is its exit code.
"""

import json
import os
import sys
from importlib import import_module

from library import read_sources, use_path
from unsynced import write_unsynced

# Snakemake and the Snakefile import these for every run.
for name in (
    "snakemake.cli",
    "snakemake.report",
    "snakemake.workflow",
    "jinja2",
    "numpy",
    "pandas",
    "requests",
    "sparseft.planning.inputs",
    "sparseft.planning.requests",
    "sparseft.study.targets",
    "yaml",
):
    import_module(name)


def run(request: dict) -> None:
    """Run snakemake in this process, and end it."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    use_path(os.path.dirname(sys.executable), request["library"])
    sys.argv = ["snakemake", *request["arguments"]]
    import_module("snakemake.cli").main()


def answer(line: str) -> bool:
    """Fork for one request and print its exit code. Return False in the fork."""
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return bool(child)


if __name__ == "__main__":
    write_unsynced()
    read_sources()
    for line in sys.stdin:
        if not answer(line):
            run(json.loads(line))
            break
