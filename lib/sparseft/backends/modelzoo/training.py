"""Train with the backend modelzoo: Cerebras ModelZoo's own Trainer, on a CS-3 or on its CPU backend.

The user's checkout of ModelZoo trains in a process of its own, from a masked .mdl checkpoint. The adapter file is like that of
every backend. Masks, batches, random draws and schedule are those of the backend torch.

No part of this has run on a CS-3. In the tests, ModelZoo's CPU backend trains, and its configuration lowers for CSX.

    trainer_run.py      writes the Trainer's configuration and batches
    callbacks.py        runs in the Trainer's process
    trainer_results.py  reads what the Trainer measured, and the trained checkpoint
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from sparseft.backends.appliance import KILLED
from sparseft.backends.modelzoo.trainer_results import check_frozen, train_record, trained_factors
from sparseft.backends.modelzoo.trainer_run import TrainerRun
from sparseft.checkpoints.mdl import MdlFile
from sparseft.errors import InputError
from sparseft.lora.adapter import write_adapter
from sparseft.storage.atomic import write_json
from sparseft.storage.reading import read_json
from sparseft.study.digests import code_digest

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


def train(run: TrainerRun) -> dict:
    """Train the adapter, write it to the run's folder/adapter and return the measured part of train.json.

    If an earlier process left a complete checkpoint, the training continues from it. Raises InputError if there is no
    ModelZoo, if its Trainer fails, or if it changed the frozen base."""
    modelzoo = ModelZoo.from_environment()
    _remove_other_training(run, modelzoo)
    run.write_batches()
    last = run.last_checkpoint()
    if last is None:
        # Logs without a checkpoint are those of an earlier training whose adapter was written.
        shutil.rmtree(run.model_dir / "cerebras_logs", ignore_errors=True)
        modelzoo.run(run.write(run.folder / "trainer.yaml"), "train")
    elif last[0] < run.job.settings.steps:
        modelzoo.run(run.write(run.model_dir / "resumed.yaml", last[1]), "train")
    step, finished = run.last_checkpoint() or (0, None)
    if step != run.job.settings.steps:
        raise InputError(f"{run.model_dir}: no checkpoint of the last step", "see what the Trainer printed")
    modelzoo.run(run.write(run.model_dir / "evaluation.yaml", finished), "eval")
    check_frozen(MdlFile(run.checkpoint), MdlFile(finished))
    factors = trained_factors(run, MdlFile(finished))
    job = run.job
    write_adapter(
        run.folder / "adapter", factors, job.settings, base=job.checkpoint.folder.name, sparseft=job.provenance
    )
    return train_record(run, factors, modelzoo.commit)


def remove_states(folder: Path) -> None:
    """Remove the checkpoints and batches of a training after its adapter was written. Each checkpoint holds the whole base."""
    for path in (folder / "modelzoo").glob("checkpoint_*.mdl"):
        path.unlink()
    shutil.rmtree(folder / "modelzoo/data", ignore_errors=True)


def _remove_other_training(run: TrainerRun, modelzoo: ModelZoo) -> None:
    """Remove the Trainer's folder if it is of another training, because the Trainer would continue from it."""
    path = run.model_dir / "identity.json"
    machine = [
        run.cerebras.model_dump(include=run.cerebras.DECIDING),
        code_digest(DRIVER, PROJECT / "lib"),
        modelzoo.commit,
        str(modelzoo.python),
        torch.get_num_threads(),
    ]
    # Of everything that decides the adapter's bits.
    identity = run.job.identity(run.data, Path(__file__), machine)
    if path.exists() and read_json(path).get("identity") == identity:
        return
    if run.model_dir.exists():
        print(
            f"{run.model_dir}: of other code, inputs or settings: the training starts from its beginning",
            file=sys.stderr,
        )
        shutil.rmtree(run.model_dir)
    write_json(path, {"identity": identity})
