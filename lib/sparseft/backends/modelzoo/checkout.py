"""The user's checkout of ModelZoo, and how this project starts its Trainer with it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from sparseft.backends.appliance import KILLED
from sparseft.errors import InputError

URL = "https://github.com/Cerebras/modelzoo"
PROJECT = Path(__file__).parents[4]
DRIVER = PROJECT / "workflow/scripts/run_modelzoo.py"


@dataclass(frozen=True)
class ModelZoo:
    """Hold the folder of the checkout, and the python of its environment."""

    home: Path
    python: Path

    @classmethod
    def from_environment(cls) -> "ModelZoo":
        """Return what MODELZOO_HOME and MODELZOO_PYTHON name. Raises InputError, with the commands to get it, if it is missing."""
        named = os.environ.get("MODELZOO_HOME", "")
        home = Path(named or "/nowhere")
        python = Path(os.environ.get("MODELZOO_PYTHON") or home / ".venv/bin/python")
        install = f"git clone {URL}, install its requirements.txt into a .venv in it, and set MODELZOO_HOME to it"
        if not (home / "src/cerebras/modelzoo/trainer").is_dir():
            raise InputError(f"MODELZOO_HOME={named}: no checkout of ModelZoo", install)
        if not python.is_file():
            raise InputError(
                f"{python}: no such program",
                f"{install}, or set MODELZOO_PYTHON to the python that has the requirements",
            )
        return cls(home.resolve(), python)

    @property
    def commit(self) -> str:
        """Return the checkout's commit, or "unknown" if git does not know it."""
        command = ["git", "-C", str(self.home), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"

    def run(self, configuration: Path, mode: str) -> None:
        """Run the Trainer with `--mode` train or eval, in a process that ends with this one. Its output goes to stderr.

        Raises InputError if it fails."""
        paths = os.pathsep.join(map(str, (PROJECT / "lib", self.home / "src")))
        command = [self.python, DRIVER, configuration, "--mode", mode, "--end_with_stdin"]
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        error_line = "ModelZoo's Trainer failed; see what it printed"
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            if line.startswith("error: "):
                error_line = line.removeprefix("error: ").strip()
            else:
                print(line, end="", file=sys.stderr, flush=True)
        code = process.wait()
        # It was killed. The process that started this one removes its job from the appliance.
        if code < 0:
            sys.exit(KILLED - code)
        if code:
            what, _, remedy = error_line.rpartition("; ")
            raise InputError(what, remedy)
