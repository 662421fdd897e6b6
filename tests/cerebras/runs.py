"""The Cerebras backend against the torch backend, with the real cerebras-pytorch: `make test-cerebras`.

These tests run in its environment. Each training has a process of its own, because a process has one backend. What the
default environment does (inputs, the torch backend, merge, validation) is done by its python: SPARSEFT_PYTHON, or
.venv's.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from project import words_of

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow/scripts"
DEFAULT_PYTHON = os.environ.get("SPARSEFT_PYTHON", str(ROOT / ".venv/bin/python"))
CPU = "CSX software backend on CPU"
SETTINGS = {
    "steps": 20, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "evaluation_batch_size": 8,
    "save_every": 5, "sequence_length": 256,
}  # fmt: skip
AFTER = "\nimport runpy, sys\nsys.argv[0] = {script!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')"


@dataclass(frozen=True)
class Inputs:
    """Hold a folder with tiny models, masks and data."""

    folder: Path

    def flags(self, output: Path, run: str, **changed: object) -> list[str]:
        """Return the flags of a training; `run` is MODEL-METHOD-SPARSITY-MODE. A flag that is None is left out."""
        model, method, sparsity, mode = run.split("-")
        given = {
            "run_id": f"{model}-boolq_mini-{method}-sparsity{sparsity}-{mode}-seed0",
            "model_path": self.folder / model,
            "mask_path": self.folder / f"{model}_{method}.pt",
            "data_dir": self.folder / "data",
            "output_dir": output,
            **SETTINGS,
            **changed,
        }
        return words_of({name: value for name, value in given.items() if value is not None})

    def command(
        self, output: Path, run: str, *, script: str = "train_cerebras.py", patch: str = "",
        python: str = sys.executable,
        **changed: object,
    ) -> list[str]:  # fmt: skip
        """Return the command of a script, with `patch`, a piece of code, before it."""
        code = patch + AFTER.format(script=str(SCRIPTS / script))
        return [python, "-c", code, *self.flags(output, run, **changed)]

    def train(self, output: Path, run: str, **options: object) -> subprocess.CompletedProcess:
        """Run a script. An operation that is not supported leaves its graph in the working folder."""
        command = self.command(output, run, **options)
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)


def in_default_environment(script: Path, *arguments: object) -> dict:
    """Run a script with the default environment's python, and return what it prints last, if that is JSON."""
    command = [str(part) for part in (DEFAULT_PYTHON, script, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def written(done: subprocess.CompletedProcess, record: Path) -> dict:
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(record.read_text())


def trained(done: subprocess.CompletedProcess, output: Path) -> dict:
    return written(done, output / "train.json")
