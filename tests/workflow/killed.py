"""Kill a script by SIGKILL before one of its renames, at which what it has written appears."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from project import ROOT
from sparseft.storage.hashes import sha256

# Calls os.replace as often as its first argument says, and kills itself at the next one.
_PROGRAM = """
import os, runpy, signal, sys
left, replace = int(sys.argv[1]), os.replace
def count(*places):
    global left
    left -= 1
    replace(*places) if left >= 0 else os.kill(os.getpid(), signal.SIGKILL)
os.replace = count
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def is_killed_after(renames: int, script: str, flags: dict) -> bool:
    """Run a script, and kill it when it has renamed so many times. Return False if it finished before."""
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-c", _PROGRAM, str(renames), str(ROOT / "workflow/scripts" / script), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def products(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, hidden ones too, by its name."""
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}
