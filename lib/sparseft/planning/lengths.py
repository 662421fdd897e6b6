"""Say how long the texts of a task are, for the estimates of memory and time.

Once a task is prepared, its manifest has the measured lengths. Before that, they are estimated from the sizes of local files.
Without local files, they are typical lengths of the built-in task or of the kind.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

from sparseft.methods import get_method
from sparseft.planning.local_files import rows_files
from sparseft.storage.reading import read_json
from sparseft.study.config import Config, TaskData
from sparseft.study.grid import CALIBRATION, DATA
from sparseft.tasks import BY_NAME
from sparseft.tasks.measured_lengths import CHARACTERS_PER_TOKEN
from sparseft.tasks.task import Lengths
from sparseft.tasks.text import LENGTH

MEASURED = "measured on the prepared data"
FROM_FILES = "from the sizes of the local files"
TYPICAL = "typical of the task"
# How many times the mean length a long example of a file is taken to have.
_LONG = 3


@dataclass(frozen=True)
class TaskLengths(Lengths):
    """Hold the lengths of the examples of a task in the study. `rows` are the examples that the study takes."""

    few_shot: int = 0
    max_new_tokens: int = 0
    # Where the numbers come from: MEASURED, FROM_FILES or TYPICAL.
    origin: str = field(default=TYPICAL, compare=False)


# Guesses for tasks that are not built in, by kind.
_OF_KIND = {
    "lm_eval": TaskLengths(rows=(1000, 1000), bytes=600, mean=100, long=300, answer=5, choices=4),
    "instruction": TaskLengths(rows=(1000, 1000), bytes=1200, mean=300, long=1000, answer=150, choices=0),
    "text": TaskLengths(rows=(1000, 100), bytes=2048, mean=LENGTH, long=LENGTH, answer=LENGTH, choices=0),
}


def task_lengths(config: Config, name: str) -> TaskLengths:
    """Return the lengths of a task of the study. Raises InputError if its local files cannot be read."""
    data = config.task_data(name)
    manifest = Path(DATA.format(task=name)) / "manifest.json"
    measured = _measured(manifest, manifest.stat().st_mtime_ns) if manifest.exists() else None
    if measured:
        return measured
    if name in BY_NAME:
        return _built_in(name, data)
    if data.local:
        return _of_files(tuple(rows_files(data)), data.task_kind, data.length)
    return _with_numbers(_with_length(_OF_KIND[data.task_kind], data.length), data)


def selection_rows(config: Config, name: str) -> int:
    """Return the number of selection rows of a task, or of its sequences; roughly, if the configuration does not set it."""
    data = config.task_data(name)
    # The number of a text is that of its documents.
    number = None if data.kind == "text" else data.selection_examples
    return number or task_lengths(config, name).rows[1]


@dataclass(frozen=True)
class CalibrationLengths:
    """Hold the number of `examples` that a method looks at, and their tokens: the mean, of a long one, and those with a loss.

    `text_bytes` is the size of the text that they are windows of, and 0 for a task."""

    examples: int
    mean: int
    long: int
    answer: int
    text_bytes: int = 0


def calibration_lengths(config: Config, task: str, method: str) -> CalibrationLengths:
    """Return the lengths of the examples that a method looks at."""
    text = config.masks.text_of(method)
    examples = text.examples if text else config.masks.calibration_examples
    return _calibration_lengths(config, task, get_method(method).calibration, examples)


def reconstruction_lengths(config: Config, task: str) -> CalibrationLengths:
    """Return the lengths of the examples on which decoder layers are reconstructed."""
    settings = config.reconstruction
    return _calibration_lengths(config, task, settings.calibration, settings.examples)


def _calibration_lengths(config: Config, task: str, text: str | None, examples: int) -> CalibrationLengths:
    """Return the lengths of examples of a text, or of the task if `text` is None.

    Those of a text are exact, and depend on no task."""
    if text:
        length = config.masks.calibration[text].length
        return CalibrationLengths(examples, length, length, length, text_bytes(config, text))
    lengths = task_lengths(config, task)
    return CalibrationLengths(examples, lengths.mean, lengths.long, lengths.answer)


def text_bytes(config: Config, text: str) -> int:
    """Return the size of a text on which importances calibrate; 0 if it must still be fetched from the hub."""
    local = config.masks.calibration[text].local
    places = [Path(CALIBRATION.format(text=text)), *([Path(local)] if local else [])]
    return next((place.stat().st_size for place in places if place.exists()), 0)


# The result is kept, because every job of a study needs it. A file that changes has another time of change.
@cache
def _measured(manifest: Path, changed: int) -> TaskLengths | None:
    """Return what a manifest records; None if another version wrote it, because the task will be prepared again."""
    recorded = read_json(manifest).get("lengths")
    names = {entry.name for entry in fields(TaskLengths)} - {"origin"}
    if not isinstance(recorded, dict) or recorded.keys() != names:
        return None
    return TaskLengths(**recorded | {"rows": tuple(recorded["rows"])}, origin=MEASURED)


def _built_in(name: str, data: TaskData) -> TaskLengths:
    """Return the typical lengths of a built-in task. Local files say how many rows there are."""
    task = BY_NAME[name]
    lengths = TaskLengths(**vars(task.lengths), few_shot=task.few_shot, max_new_tokens=task.max_new_tokens)
    if data.local:
        files = tuple(rows_files(data))
        rows = line_counts(files)
        lengths = replace(lengths, rows=rows, bytes=_row_bytes(files, rows))
    return _with_numbers(lengths, data)


@cache
def _of_files(files: tuple[str, ...], kind: str, length: int | None) -> TaskLengths:
    """Return the lengths that the sizes of a task's local files suggest. A text is cut into sequences of one length."""
    rows = line_counts(files)
    row_bytes = _row_bytes(files, rows)
    lengths = replace(_OF_KIND[kind], bytes=row_bytes, origin=FROM_FILES)
    if kind == "text":
        lengths = _with_length(lengths, length)
        tokens = [Path(file).stat().st_size // CHARACTERS_PER_TOKEN for file in files]
        return replace(lengths, rows=tuple(number // lengths.mean for number in tokens))
    mean = max(1, row_bytes // CHARACTERS_PER_TOKEN)
    return replace(lengths, rows=rows, mean=mean, long=_LONG * mean, answer=min(lengths.answer, mean))


def line_counts(files: tuple[str, ...]) -> tuple[int, ...]:
    """Return the number of lines of each file. Raises InputError if one cannot be read."""
    counts = []
    for file in files:
        path = Path(file)
        with open(path, "rb") as lines:
            counts.append(sum(1 for _ in lines))
    return tuple(counts)


def _row_bytes(files: tuple[str, ...], rows: tuple[int, ...]) -> int:
    """Return the mean number of bytes of the lines of files, at least 1."""
    size = sum(Path(file).stat().st_size for file in files)
    return max(1, size // max(1, sum(rows)))


def _with_length(lengths: TaskLengths, length: int | None) -> TaskLengths:
    """Return the lengths of a text that is cut into sequences of `length` tokens; unchanged if it is None."""
    if length is None:
        return lengths
    return replace(lengths, mean=length, long=length, answer=length, bytes=CHARACTERS_PER_TOKEN * length)


def _with_numbers(lengths: TaskLengths, data: TaskData) -> TaskLengths:
    """Return the lengths with the numbers of examples that the configuration sets."""
    numbers = data.numbers.values()
    rows = tuple(number or all_rows for number, all_rows in zip(numbers, lengths.rows, strict=True))
    return replace(lengths, rows=rows)
