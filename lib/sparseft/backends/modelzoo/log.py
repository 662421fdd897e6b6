"""What ModelZoo's Trainer leaves behind: losses and rates in run.log and performance.json.

Lines, of release 2.10.0 and before (src/cerebras/modelzoo/trainer/loggers/progress.py):

    | Train Device=CSX, Step=50, Loss=9.44598, Rate=44.84 samples/sec, GlobalRate=44.70 samples/sec, ...
    | Eval Device=CSX, GlobalStep=50, Batch=3, Loss=9.31245, ...
    Avg Eval Loss: 9.30123456789

A loss has five decimals there, a rate three digits or two decimals. Rate is smoothed: a step weighs 0.6 of its line, the first one is no step's.
The last line of an evaluation has the mean over the batches, and not its own batch's loss, which follows from it.
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
    """Of one start of the Trainer: losses and rates, samples a second, by step; evaluation losses by batch, from the first.

    `overall_rate`: samples a second over all steps but the first, from whose end its clock runs; `device`: cpu, or CSX."""

    losses: dict[int, float] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    evaluation: list[float] = field(default_factory=list)
    overall_rate: float | None = None
    device: str | None = None


def read_logs(model_dir: Path) -> list[TrainerLog]:
    """Every start's log, oldest first. Raises InputError where a line holds no number."""
    return [_read_log(path) for path in sorted(model_dir.glob("cerebras_logs/[0-9]*/run.log"))]


def _read_log(path: Path) -> TrainerLog:
    text, log = path.read_text(errors="replace"), TrainerLog()
    try:
        for log.device, step, loss, rate, overall in _TRAIN.findall(text):
            log.losses[int(step)], log.rates[int(step)], log.overall_rate = float(loss), float(rate), float(overall)
        log.evaluation = _evaluation(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}", "remove the folder, and train again") from None
    found = sorted(path.parent.glob("executors/*/performance.json"))
    if COMPLETED in text and found:  # in full precision
        log.overall_rate = read_json(found[0])["global_rate"]
    if log.overall_rate:  # the Trainer divides all samples by the time of all steps but the first
        log.overall_rate *= (len(log.losses) - 1) / len(log.losses)  # 0 of one step, which has no time
    return log


def _evaluation(text: str) -> list[float]:
    """The batches' losses of a log's evaluation; none where it is not at its end."""
    losses, average = [float(loss) for _, loss in _EVAL.findall(text)], _AVERAGE.findall(text)
    return [*losses[:-1], len(losses) * float(average[-1]) - sum(losses[:-1])] if losses and average else []
