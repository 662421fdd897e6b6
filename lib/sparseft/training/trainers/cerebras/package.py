"""What this project needs of cerebras-pytorch: the backend of a process, sparse weights, AdamW, saved states, and
digests.

A saved state is a .mdl file with the adapters and the optimizer, without the base. The package writes it. Our own
reader (models/checkpoints/mdl.py) reads it, because the package would unpickle objects.

Source: training-docs.cerebras.ai, "Writing a custom training loop". The names are those of cerebras-pytorch 2.10.0.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cerebras.pytorch as cstorch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparseft.common.errors import InputError
from sparseft.models.checkpoints.mdl import MdlFile, MdlTensor
from sparseft.models.language_model.weights import as_weight
from sparseft.storage.bits import BITS
from sparseft.training.settings import Training
from sparseft.training.trainers.backends.cerebras import DECAYS, CerebrasJob

RELEASES = ("2.6.0", "2.10.0")
RELEASE = version("cerebras-pytorch")
if RELEASE not in RELEASES:
    raise InputError(f"cerebras-pytorch {RELEASE}", f"install {' or '.join(RELEASES)}")


def open_backend(cerebras: CerebrasJob, folder: Path, **how: bool) -> cstorch.backend:
    """Return the backend of this process, which can have only one. Its logs go to `folder`/cerebras_logs.

    how: compile_only or validate_only, for a program that is not executed"""
    logs = str(folder / "cerebras_logs")
    if not cerebras.on_csx:
        if how:
            raise InputError("cerebras.target CPU compiles nothing", "set cerebras.target to CSX")
        return cstorch.backend("CPU", artifact_dir=logs)
    # The package logs the queue, the compilation and the name of the job at this level.
    logging.getLogger().setLevel(logging.INFO)
    # The package starts torch-cirh-opt from the folder of this python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    cstorch.backends.csx.performance.micro_batch_size = cerebras.csx_micro_batch_size
    return cstorch.backend(
        "CSX",
        artifact_dir=logs,
        compile_dir=cerebras.compile_dir,
        cluster_config=cstorch.distributed.ClusterConfig(**cerebras.cluster),
        **how,
    )


class TorchAdamW(cstorch.optim.AdamW):
    """Add eps where torch adds it: after the bias of the second moment is corrected. The package adds it before.

    The name is not AdamW, because ModelZoo's Trainer finds an optimizer by the name of its class, among all that are
    imported."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """Make one step with eps * sqrt(1 - beta2^t) as the package's eps."""
        (group,) = self.param_groups
        eps = group["eps"]
        # beta2^t at step t
        power = self.state[group["params"][0]]["beta2_power"]
        group["eps"] = eps * torch.sqrt(1.0 - power)
        loss = super().step(closure)
        group["eps"] = eps
        return loss


def optimizer_and_schedule(
    parameters: Iterable[nn.Parameter], settings: Training
) -> tuple[cstorch.optim.Optimizer, cstorch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW, and the schedule of transformers' get_cosine_schedule_with_warmup or
    get_linear_schedule_with_warmup.

    The learning rate rises in a line from 0 and then falls in a cosine or a line to 0."""
    rate = settings.learning_rate
    warmup = settings.steps_to_peak
    optimizer = TorchAdamW(list(parameters), lr=rate, eps=1e-8, weight_decay=settings.weight_decay)
    schedulers = cstorch.optim.lr_scheduler
    decay = getattr(schedulers, DECAYS[settings.lr_scheduler_type])(optimizer, rate, 0.0, settings.steps - warmup)
    if not warmup:
        return optimizer, decay
    line = schedulers.LinearLR(optimizer, 0.0, rate, warmup)
    return optimizer, schedulers.SequentialLR(optimizer, [line, decay], [warmup])


def write_mdl(folder: Path, step: int, content: dict) -> None:
    """Write the state after `step`, and remove the older ones. `content` has nested tensors, numbers and texts."""
    path = folder / f"state_{step}.mdl"
    # A training with other settings may have left it.
    path.unlink(missing_ok=True)
    try:
        cstorch.save(content, str(path))
    finally:
        remove_unfinished(folder)
    for older in saved_mdl(folder):
        if older != path:
            older.unlink()


def read_last_mdl(folder: Path, identity: str) -> dict | None:
    """Return the newest complete state of the training with this identity, on the CPU; None if there is none.

    A state that cannot be used is named on stderr. A file that a killed process left half-written is removed."""
    remove_unfinished(folder)
    for path in saved_mdl(folder):
        file = MdlFile(path)
        reason = f"{path}: of other code, inputs or settings"
        try:
            with closing(file.file):
                content = file.content()
                if content.get("identity") == identity:
                    return tree_map_only(MdlTensor, partial(_read_tensor, file), content)
        except InputError as error:
            reason = error.args[0]
        print(f"{reason}: it is not used", file=sys.stderr)
    return None


def _read_tensor(file: MdlFile, tensor: MdlTensor) -> Tensor:
    values = file.read(tensor)
    return as_weight(values, tensor.dtype) if tensor.dtype in BITS else torch.from_numpy(values)


def saved_mdl(folder: Path) -> list[Path]:
    """Return the states in a folder, newest first."""
    return sorted(folder.glob("state_*.mdl"), key=lambda path: -int(path.stem.removeprefix("state_")))


def remove_unfinished(folder: Path) -> None:
    """Remove the files of interrupted saves. The package writes beside the final place, and then renames."""
    for path in folder.glob("state_*.mdl.*.tmp"):
        path.unlink()
