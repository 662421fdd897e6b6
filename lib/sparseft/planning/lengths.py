"""Say how long the texts of a task are, for the estimates of memory and time.

Once a task is prepared, its manifest has the measured lengths. Before that, they are typical of the built-in task or of the kind.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from sparseft.methods import get_method
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.grid import CALIBRATION, DATA
from sparseft.tasks import BY_NAME
from sparseft.tasks.task import Lengths
from sparseft.tasks.text import LENGTH


@dataclass(frozen=True)
class TaskLengths(Lengths):
    """Hold the lengths of the examples of a task in the study. `rows` are the examples that the study takes."""

    few_shot: int = 0
    max_new_tokens: int = 0


# Guesses for tasks that are not built in, by kind.
_OF_KIND = {
    "lm_eval": TaskLengths(rows=(1000, 1000), bytes=600, mean=100, long=300, answer=5, choices=4),
    "instruction": TaskLengths(rows=(1000, 1000), bytes=1200, mean=300, long=1000, answer=150, choices=0),
    "text": TaskLengths(rows=(1000, 100), bytes=2048, mean=LENGTH, long=LENGTH, answer=LENGTH, choices=0),
}


def task_lengths(config: Config, name: str) -> TaskLengths:
    """Return the lengths of a task of the study."""
    manifest = Path(DATA.format(task=name)) / "manifest.json"
    if manifest.exists() and (measured := _measured(manifest, manifest.stat().st_mtime_ns)):
        return measured
    data = config.task_data(name)
    if name in BY_NAME:
        task = BY_NAME[name]
        lengths = TaskLengths(**vars(task.lengths), few_shot=task.few_shot, max_new_tokens=task.max_new_tokens)
    else:
        lengths = _OF_KIND[data.task_kind]
    if data.length:
        lengths = replace(lengths, mean=data.length, long=data.length, answer=data.length)
    numbers = zip(data.numbers.values(), lengths.rows, strict=True)
    return replace(lengths, rows=tuple(number or typical for number, typical in numbers))


# The result is kept, because every job of a study needs it. A file that changes has another time of change.
@cache
def _measured(manifest: Path, changed: int) -> TaskLengths | None:
    """Return what a manifest records; None if another version wrote it, because the task will be prepared again."""
    recorded = read_json(manifest).get("lengths", {})
    if recorded.keys() != {entry.name for entry in fields(TaskLengths)}:
        return None
    return TaskLengths(**recorded | {"rows": tuple(recorded["rows"])})


def mask_lengths(config: Config, task: str, method: str) -> Lengths:
    """Return the lengths of the examples on which the masks of a method are calibrated. `rows` starts with their number."""
    text = config.masks.text_of(method)
    examples = text.examples if text else config.masks.calibration_examples
    return calibration_lengths(config, task, get_method(method).calibration, examples)


def calibration_lengths(config: Config, task: str, text: str | None, examples: int) -> Lengths:
    """Return the lengths of examples of a text, or of the task if `text` is None. `bytes` is the size of the whole text."""
    if text is None:
        return replace(task_lengths(config, task), rows=(examples, 0), bytes=0)
    length = config.masks.calibration[text].length
    places = [Path(CALIBRATION.format(text=text)), Path(config.masks.calibration[text].local or "")]
    size = next((place.stat().st_size for place in places if place.is_file()), 0)
    return Lengths(rows=(examples, 0), bytes=size, mean=length, long=length, answer=length, choices=0)
