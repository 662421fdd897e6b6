"""Read the losses and the rates that ModelZoo's Trainer writes into run.log and performance.json.

The lines are those of release 2.10.0 and earlier (src/cerebras/modelzoo/trainer/loggers/progress.py):

    | Train Device=CSX, Step=50, Loss=9.44598, Rate=44.84 samples/sec, GlobalRate=44.70 samples/sec, ...
    | Eval Device=CSX, GlobalStep=50, Batch=3, Loss=9.31245, ...
    Avg Eval Loss: 9.30123456789

A loss has five decimals, and a rate has three digits or two decimals. Rate is smoothed: the last step has weight 0.6, and the
first line is the rate of no step. The last line of an evaluation has the mean over the batches instead of its own batch's
loss. That loss follows from the mean.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_json

COMPLETED = "Training completed successfully!"
_TRAIN = re.compile(
    r"\| Train Device=([^,]+), Step=(\d+), Loss=([^,]+), Rate=(\S+) samples/sec, GlobalRate=(\S+) samples/sec"
)
_EVAL = re.compile(r"\| Eval Device=[^,]+, GlobalStep=\d+, Batch=(\d+), Loss=([^,\s]+)")
_AVERAGE = re.compile(r"Avg Eval Loss: (\S+)")


@dataclass
class TrainerLog:
    """Hold the log of one start of the Trainer: losses by step, samples per second by step, evaluation losses by batch.

    `overall_rate` is in samples per second over all steps except the first, because the Trainer's clock starts at its end.
    `device` is cpu or CSX."""

    losses: dict[int, float] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    evaluation: list[float] = field(default_factory=list)
    overall_rate: float | None = None
    device: str | None = None


def read_logs(model_dir: Path) -> list[TrainerLog]:
    """Return the log of every start, oldest first. Raises InputError if a line has no number in its place."""
    return [_read_log(path) for path in sorted(model_dir.glob("cerebras_logs/[0-9]*/run.log"))]


def _read_log(path: Path) -> TrainerLog:
    """Return the log of one start."""
    text = path.read_text(errors="replace")
    log = TrainerLog()
    try:
        for device, step, loss, rate, overall_rate in _TRAIN.findall(text):
            log.device = device
            log.losses[int(step)] = float(loss)
            log.rates[int(step)] = float(rate)
            log.overall_rate = float(overall_rate)
        losses = [float(loss) for _, loss in _EVAL.findall(text)]
        means = _AVERAGE.findall(text)
        if losses and means:
            before_last = losses[:-1]
            log.evaluation = [*before_last, len(losses) * float(means[-1]) - sum(before_last)]
    except ValueError as error:
        raise InputError(f"{path}: {error}", "remove the folder, and train again") from None
    performance = sorted(path.parent.glob("executors/*/performance.json"))
    # This file has the rate in full precision.
    if COMPLETED in text and performance:
        log.overall_rate = read_json(performance[0])["global_rate"]
    # The Trainer divides all samples by the time of all steps except the first. A single step gives 0.
    if log.overall_rate:
        log.overall_rate *= (len(log.losses) - 1) / len(log.losses)
    return log
