"""A process that has imported Snakemake and forks itself for each plan, which then costs a third of `snakemake --dry-run`.

Every plan has a process of its own, as a user's has: no plan sees the library or the settings of another. Each request is
a line of JSON: folder, library, environment, arguments, and the file for what Snakemake prints. The answer is its exit code.
"""

import json
import os
import sys
from importlib import import_module

# Imported for every plan, by Snakemake and by the Snakefile; nothing of sparseft, which differs between the requests.
for name in ("snakemake.cli", "snakemake.workflow", "snakemake.report", "numpy", "pydantic", "requests", "yaml"):
    import_module(name)


def plan(request: dict) -> None:
    """Run snakemake in this process, and end it."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path.insert(0, request["library"])
    sys.argv = ["snakemake", *request["arguments"]]
    import_module("snakemake.cli").main()


def answer(line: str) -> bool:
    """Fork for one request and print its exit code; returns False in the fork."""
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return bool(child)


if __name__ == "__main__":
    for line in sys.stdin:
        if not answer(line):
            plan(json.loads(line))
            break
