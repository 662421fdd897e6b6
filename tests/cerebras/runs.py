"""The Cerebras backend against the torch backend, with the real cerebras-pytorch: `make test-cerebras`.

These tests run in its environment and start each training in a process of its own, for a process has one backend. What the
default environment does (inputs, the torch backend, merge, validation) its python does: SPARSEFT_PYTHON, or .venv's.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
DEFAULT_PYTHON = os.environ.get("SPARSEFT_PYTHON", str(ROOT / ".venv/bin/python"))
SETTINGS = ["--steps", "20", "--batch_size", "4", "--micro_batch_size", "4", "--learning_rate", "0.01", "--lora_r", "4",
            "--evaluation_batch_size", "8", "--eval_every", "8", "--save_every", "5"]  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """A folder with tiny models, masks and data."""

    folder: Path

    def train(
        self, output: Path, run: str, *flags: str, patch: str = "", python: str = sys.executable, **changed: object
    ) -> subprocess.CompletedProcess:
        """train_cerebras.py as a user runs it, `run` being MODEL-METHOD-SPARSITY-MODE; `patch` is run before it."""
        command = [python, HERE / "patched.py", "train_cerebras.py", patch, *self.flags(output, run), *flags]
        command += [part for name, value in changed.items() for part in (f"--{name}", value)]
        return subprocess.run(
            [str(part) for part in command], cwd=self.folder, capture_output=True, text=True, check=False
        )  # an operation that is not supported leaves its graph in the folder

    def flags(self, output: Path, run: str) -> list[object]:
        model, method, sparsity, mode = run.split("-")
        name = f"{model}-boolq_mini-{method}-sparsity{sparsity}-{mode}-seed0"
        return ["--run_id", name, "--model_path", self.folder / model, "--mask_path", self.folder / f"{model}_{method}.pt",
                "--data_dir", self.folder / "data", "--output_dir", output, *SETTINGS, "--sequence_length", 256]  # fmt: skip


def in_default_environment(*arguments: object) -> dict:
    """What reference.py prints, run by the default environment's python."""
    command = [DEFAULT_PYTHON, HERE / "reference.py", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def trained(done: subprocess.CompletedProcess, output: Path) -> dict:
    """train.json of a run that succeeded."""
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((output / "train.json").read_text())
