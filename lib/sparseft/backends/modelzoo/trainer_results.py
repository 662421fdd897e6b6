"""What ModelZoo's Trainer leaves: the logs, from which train.json is made, and the last checkpoint, which has the adapter."""

import math
import re
import resource
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparseft.backends.fixed_shapes import as_they_act
from sparseft.backends.modelzoo.trainer_run import TrainerRun
from sparseft.checkpoints.checkpoint import BITS, BLOCK, to_float32
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.mdl import MdlFile, MdlTensor
from sparseft.checkpoints.modelzoo_checkpoint import open_checkpoint
from sparseft.errors import InputError
from sparseft.language_model.hardware import versions
from sparseft.language_model.loss import check_finite_evaluation
from sparseft.storage.reading import read_json
from sparseft.study.backends.modelzoo import MODELZOO
from sparseft.study.grid import WAFER
from sparseft.training.steps import Progress, check_finite

COMPLETED = "Training completed successfully!"
_TRAIN = re.compile(
    r"\| Train Device=([^,]+), Step=(\d+), Loss=([^,]+), Rate=\S+ samples/sec, GlobalRate=(\S+) samples/sec"
)
_EVAL = re.compile(r"\| Eval Device=[^,]+, GlobalStep=\d+, Batch=(\d+), Loss=([^,\s]+)")
_AVERAGE = re.compile(r"Avg Eval Loss: (\S+)")


@dataclass
class TrainerLog:
    """Hold the log of one start of the Trainer: losses by step, and evaluation losses by batch.

    The lines are those of release 2.10.0 and earlier (src/cerebras/modelzoo/trainer/loggers/progress.py):

        | Train Device=CSX, Step=50, Loss=9.44598, Rate=44.84 samples/sec, GlobalRate=44.70 samples/sec, ...
        | Eval Device=CSX, GlobalStep=50, Batch=3, Loss=9.31245, ...
        Avg Eval Loss: 9.30123456789

    A loss has five decimals, and a rate has three digits or two decimals. The last line of an evaluation has the mean over the
    batches instead of its own batch's loss. That loss follows from the mean.

    `overall_rate` is in samples per second over all steps except the first, because the Trainer's clock starts at its end.
    `device` is cpu or CSX."""

    losses: dict[int, float] = field(default_factory=dict)
    evaluation: list[float] = field(default_factory=list)
    overall_rate: float | None = None
    device: str | None = None


def read_logs(model_dir: Path) -> list[TrainerLog]:
    """Return the log of every start, oldest first."""
    logs = []
    for path in sorted(model_dir.glob("cerebras_logs/[0-9]*/run.log")):
        text = path.read_text(errors="replace")
        log = TrainerLog()
        for device, step, loss, overall_rate in _TRAIN.findall(text):
            log.device = device
            log.losses[int(step)] = float(loss)
            log.overall_rate = float(overall_rate)
        losses = [float(loss) for _, loss in _EVAL.findall(text)]
        means = _AVERAGE.findall(text)
        if losses and means:
            before_last = losses[:-1]
            log.evaluation = [*before_last, len(losses) * float(means[-1]) - sum(before_last)]
        performance = sorted(path.parent.glob("executors/*/performance.json"))
        # This file has the rate in full precision.
        if COMPLETED in text and performance:
            log.overall_rate = read_json(performance[0])["global_rate"]
        # The Trainer divides all samples by the time of all steps except the first. A single step gives 0.
        if log.overall_rate:
            log.overall_rate *= (len(log.losses) - 1) / len(log.losses)
        logs.append(log)
    return logs


def train_record(run: TrainerRun, factors: dict[str, tuple[Tensor, Tensor]], commit: str) -> dict:
    """Return what a finished training has measured, with the commit of ModelZoo. Raises InputError for incomplete logs."""
    settings = run.job.settings
    cerebras = run.cerebras
    logs = read_logs(run.model_dir)
    train_logs = [log for log in logs if log.losses]
    # Of a step that was made twice, the last log counts.
    log_of_step = {step: log for log in train_logs for step in log.losses}
    device = WAFER if cerebras.on_csx else "cpu"
    if sorted(log_of_step) != list(range(1, settings.steps + 1)) or {log.device for log in train_logs} != {device}:
        what = f"{run.model_dir}: its logs have {len(log_of_step)} of {settings.steps} steps, and not all on {device}"
        raise InputError(what, "remove it, and train again")
    rates = [log.overall_rate for log in log_of_step.values() if log.overall_rate]
    if not rates:
        what = f"{run.model_dir}: no start of the Trainer made two steps, which a rate needs"
        raise InputError(what, "train more steps at once")
    batches = run.batches()
    progress = Progress()
    for step, examples in enumerate(batches["train"], start=1):
        log = log_of_step[step]
        check_finite(step, log.losses[step], 0.0)
        progress.curve.append({"step": step, "loss": log.losses[step]})
        # The log has no times of steps. A start of one step has no rate.
        progress.seconds.append(settings.batch_size / (log.overall_rate or statistics.harmonic_mean(rates)))
        progress.tokens.append(sum(len(example.ids) for example in examples))
    progress.resumed_after = [min(log.losses) - 1 for log in train_logs if min(log.losses) > 1]
    # ru_maxrss is in KiB.
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    losses = logs[-1].evaluation
    tokens = [sum(len(example.ids) - example.answer_start for example in batch) for batch in batches["validation"]]
    if len(losses) != len(tokens):
        raise InputError(f"{run.model_dir}: {len(losses)} of {len(tokens)} batches evaluated", "train again")
    # The Trainer's own mean ignores how many answer tokens a batch has.
    eval_loss = sum(loss * number for loss, number in zip(losses, tokens, strict=True)) / sum(tokens)
    check_finite_evaluation(eval_loss)
    return progress.record(settings.batch_size, peak_bytes) | {
        # The logs have no learning rates, so the schedule tells: the first step of a warm-up has rate 0.
        "updates": settings.steps - min(1, settings.steps_to_peak),
        "eval_loss": eval_loss,
        "backend": MODELZOO.name,
        **cerebras.device_record(settings.batch_size),
        "dtype": "cbfloat16" if cerebras.on_csx else "float32",
        "trainable_parameters": sum(matrix.numel() for pair in factors.values() for matrix in pair),
        "versions": read_json(run.model_dir / "versions.json")
        | {"sparseft": versions()["sparseft"], "modelzoo": commit},
    }


def check_frozen(before: MdlFile, after: MdlFile) -> None:
    """Raise InputError if the Trainer's checkpoint has another base or other masks than the one that it started from.

    The dtypes may differ. A block of rows is in memory at a time."""
    for key, tensor in before.tensors.items():
        other = after.tensors.get(key)
        # A layer without a zero is not declared sparse, so the Trainer saves no mask of it.
        if other is None and key.endswith("_mask") and before.read(tensor).all():
            continue
        step = max(1, BLOCK // math.prod(tensor.shape[1:]))
        blocks = [slice(start, start + step) for start in range(0, tensor.shape[0], step)]
        if (
            other is None
            or other.shape != tensor.shape
            or any(_values(before, tensor, rows).tobytes() != _values(after, other, rows).tobytes() for rows in blocks)
        ):
            raise InputError(
                f"{after.path}: {key} is not as it was before the training", "report this line; no adapter was written"
            )


def trained_factors(run: TrainerRun, trained: MdlFile) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A (r, in) and B (out, r) of each layer as they act, in fp32, with Hugging Face's names and order of rows."""
    exported = open_checkpoint(run.checkpoint)
    factors = {}
    for layer in prunable_layers(run.job.checkpoint):
        place = exported.places[f"{layer}.weight"]
        path = f"model.model.{place.key.removesuffix('.weight')}"
        if f"{path}.lora_A" not in trained.tensors:
            continue
        A = torch.from_numpy(_values(trained, trained.tensors[f"{path}.lora_A"]))
        B = torch.from_numpy(place.to_hugging_face(_values(trained, trained.tensors[f"{path}.lora_B"])))
        factors[layer] = as_they_act(A, B, run.job.mode, torch.from_numpy(run.job.mask.kept(layer)))
    return factors


def _values(file: MdlFile, tensor: MdlTensor, selection: object = ()) -> np.ndarray:
    """Return what `selection` selects of a tensor. Floats come in fp32."""
    values = file.read(tensor, selection)
    return to_float32(values, tensor.dtype) if tensor.dtype in BITS else values
