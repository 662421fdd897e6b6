"""Train with the backend modelzoo: Cerebras ModelZoo's own Trainer, on a CS-3 or on its CPU backend.

The user's checkout of ModelZoo trains in a process of its own, from a masked .mdl checkpoint. The adapter file is like
that of every backend. Masks, batches, random draws and schedule are those of the backend torch.

No part of this has run on a CS-3. In the tests, ModelZoo's CPU backend trains, and its configuration lowers for CSX.

    trainer_files.py  writes the Trainer's configuration and batches
    callbacks.py      runs in the Trainer's process
"""

import ctypes
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparseft.common.errors import InputError
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.checkpoints.mdl import MdlFile
from sparseft.models.checkpoints.modelzoo_checkpoint import Place
from sparseft.models.language_model.hardware import versions
from sparseft.storage.atomic import write_json
from sparseft.storage.bits import BITS, to_float32
from sparseft.storage.reading import read_json
from sparseft.training.progress import Progress, check_finite
from sparseft.training.trainers.appliance import KILLED
from sparseft.training.trainers.backends.modelzoo import MODELZOO
from sparseft.training.trainers.fixed_shapes import effective_factors
from sparseft.training.trainers.modelzoo.trainer_files import TrainerRun

PROJECT = Path(__file__).parents[4]
DRIVER = PROJECT / "workflow/scripts/run_modelzoo.py"
# Of prctl(2): the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1
_TRAIN = re.compile(
    r"\| Train Device=[^,]+, Step=(\d+), Loss=([^,]+), Rate=\S+ samples/sec, GlobalRate=(\S+) samples/sec"
)


@dataclass(frozen=True)
class ModelZoo:
    """Hold the folder of the checkout, and the python of its environment."""

    home: Path
    python: Path

    @classmethod
    def from_environment(cls) -> "ModelZoo":
        """Return what MODELZOO_HOME and MODELZOO_PYTHON name. Raises InputError, with the commands to get it, if it is
        missing."""
        named = os.environ.get("MODELZOO_HOME", "")
        home = Path(named or "/nowhere").resolve()
        python = Path(os.environ.get("MODELZOO_PYTHON") or home / ".venv/bin/python")
        if not (home / "src/cerebras/modelzoo/trainer").is_dir() or not python.is_file():
            raise InputError(
                f"MODELZOO_HOME={named}: no checkout of ModelZoo, or no program {python}",
                "git clone https://github.com/Cerebras/modelzoo, install its requirements.txt into a .venv in"
                " it, and set MODELZOO_HOME to it",
            )
        return cls(home, python)

    @property
    def commit(self) -> str:
        """Return the checkout's commit, or "unknown" if git does not know it."""
        command = ["git", "-C", str(self.home), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"

    def run(self, configuration: Path) -> None:
        """Run the Trainer in a process that ends with this one. Its output goes to stderr.

        Exits with its code if it fails. The process that started this one removes a job that is left on the
        appliance."""
        paths = os.pathsep.join(map(str, (PROJECT / "lib", self.home / "src")))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        command: list[str | Path] = [self.python, DRIVER, configuration]
        end_with_parent = partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
        code = subprocess.call(command, stdout=sys.stderr, env=environment, preexec_fn=end_with_parent)
        if code:
            sys.exit(code if code > 0 else KILLED - code)


def train(run: TrainerRun) -> dict:
    """Train, write the job's output and return the measured part of train.json.

    If an earlier process left a complete checkpoint, the training continues from it. Raises InputError if there is no
    ModelZoo, or if its Trainer changed the frozen base."""
    modelzoo = ModelZoo.from_environment()
    _remove_other_training(run, modelzoo)
    job = run.job
    step, last = run.last_checkpoint()
    if not step:
        # Logs without a checkpoint are those of an earlier training whose adapter was written.
        shutil.rmtree(run.model_dir / "cerebras_logs", ignore_errors=True)
    if step < job.settings.steps:
        modelzoo.run(run.write(run.folder / "trainer.yaml", last))
        step, last = run.last_checkpoint()
    assert step == job.settings.steps, "the Trainer wrote no checkpoint of the last step"
    _write(run, MdlFile(last))
    return measured(run) | {
        "backend": MODELZOO.name,
        **run.cerebras.device_record(job.settings.batch_size),
        "dtype": "cbfloat16" if run.cerebras.on_csx else "float32",
        "versions": read_json(run.model_dir / "versions.json")
        | {"sparseft": versions()["sparseft"], "modelzoo": modelzoo.commit},
    }


def _remove_other_training(run: TrainerRun, modelzoo: ModelZoo) -> None:
    """Remove the Trainer's folder if it is of another training, because the Trainer would continue from it."""
    path = run.model_dir / "identity.json"
    machine = [run.cerebras.deciding, modelzoo.commit, str(modelzoo.python), torch.get_num_threads()]
    # Of everything that decides the adapter's bits.
    identity = run.job.identity({"train": run.examples}, machine)
    if path.exists() and read_json(path).get("identity") == identity:
        return
    if run.model_dir.exists():
        print(f"{run.model_dir}: of other code, inputs or settings: it is not used", file=sys.stderr)
        shutil.rmtree(run.model_dir)
    write_json(path, {"identity": identity})


def read_logs(model_dir: Path) -> list[tuple[dict[int, float], float]]:
    """Return the losses by step, and the overall rate, of every start of the Trainer that made a step, oldest first.

    The lines are those of release 2.10.0 and earlier (src/cerebras/modelzoo/trainer/loggers/progress.py):

        | Train Device=CSX, Step=50, Loss=9.44598, Rate=44.84 samples/sec, GlobalRate=44.70 samples/sec, ...

    A loss has five decimals, and a rate has three digits or two decimals.

    The overall rate is in samples per second over all steps except the first, because the Trainer's clock starts at its
    end. It is 0 for a single step."""
    logs = []
    for path in sorted(model_dir.glob("cerebras_logs/[0-9]*/run.log")):
        if steps := _TRAIN.findall(path.read_text(errors="replace")):
            # The Trainer divides all samples by the time of all steps except the first.
            rate = float(steps[-1][2]) * (len(steps) - 1) / len(steps)
            logs.append(({int(step): float(loss) for step, loss, _ in steps}, rate))
    return logs


def measured(run: TrainerRun) -> dict:
    """Return what the logs of a finished training say for train.json.

    A rate needs two steps. Raises statistics.StatisticsError if no start of the Trainer made two."""
    settings = run.job.settings
    logs = read_logs(run.model_dir)
    # Of a step that was made twice, the last log counts.
    of_step = {step: (loss, rate) for losses, rate in logs for step, loss in losses.items()}
    rates = [rate for _, rate in of_step.values() if rate]
    progress = Progress()
    for step, examples in enumerate(run.batches(), start=1):
        loss, rate = of_step[step]
        check_finite(step, loss, 0.0)
        progress.curve.append({"step": step, "loss": loss})
        # The log has no times of steps. A start of one step has no rate.
        progress.seconds.append(settings.batch_size / (rate or statistics.harmonic_mean(rates)))
        progress.tokens.append(sum(len(example.ids) for example in examples))
    progress.resumed_after = [min(losses) - 1 for losses, _ in logs if min(losses) > 1]
    # ru_maxrss is in KiB.
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return progress.record(settings.batch_size, peak_bytes)


def _write(run: TrainerRun, last: MdlFile) -> None:
    """Write the job's output from the Trainer's last checkpoint, with Hugging Face's names and order of rows.

    Raises InputError if the Trainer changed what it must not."""
    job = run.job
    key_of = {name: f"model.{key}" for name, key in run.trained_keys.items()}
    check_frozen(MdlFile(run.checkpoint), last, key_of.values())

    def value_of(key: str, place: Place) -> Tensor:
        return torch.from_numpy(place.to_hugging_face(_values(last, key)))

    if key_of:
        job.write_weights(lambda name: value_of(key_of[name], run.places[name]))
        return
    factors = {}
    for layer in prunable_layers(job.checkpoint):
        place = run.places[f"{layer}.weight"]
        path = f"model.model.{place.key.removesuffix('.weight')}"
        # training.lora_targets may leave a layer out.
        if f"{path}.lora_A" in last.tensors:
            A = torch.from_numpy(_values(last, f"{path}.lora_A"))
            factors[layer] = effective_factors(job, layer, A, value_of(f"{path}.lora_B", place))
    job.write_adapter(factors)


def check_frozen(before: MdlFile, after: MdlFile, trained: Collection[str] = ()) -> None:
    """Raise InputError if the Trainer's checkpoint has another base or other masks than the one that it started from.

    The dtypes may differ, and so may the tensors that were `trained`."""
    for key in before.tensors:
        if key in trained:
            continue
        values = _values(before, key)
        is_missing = key not in after.tensors
        # A layer without a zero, or whose mask is lifted, is not declared sparse, so the Trainer saves no mask of it.
        if is_missing and key.endswith("_mask") and (trained or values.all()):
            continue
        if is_missing or values.tobytes() != _values(after, key).tobytes():
            raise InputError(
                f"{after.path}: {key} is not as it was before the training", "report this line; no adapter was written"
            )


def _values(file: MdlFile, key: str) -> np.ndarray:
    """Return the values of a tensor. Floats come in fp32."""
    tensor = file.tensors[key]
    values = file.read(tensor)
    return to_float32(values, tensor.dtype) if tensor.dtype in BITS else values
