"""Choose the examples of a calibration: training rows of a task, or windows of a text.

A window comes from a random document, or is chosen as wanda's `get_c4` does (locuslab/wanda, lib/data.py).
"""

import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from sparseft.axes.methods import Method
from sparseft.axes.tasks.task import DOCUMENT_BREAK, WINDOW, Row, Task
from sparseft.common.errors import InputError
from sparseft.data.prepared import find_task, read_prepared
from sparseft.data.rows import read_rows
from sparseft.data.settings import CalibrationText
from sparseft.data.texts import has_windows, read_documents, recorded_source
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, encode
from sparseft.models.language_model.model import load_tokenizer, model_config
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.pruning.masks.settings import Masks


def calibrate(method: Method, task_name: str, train: Path, settings: Masks) -> ExampleCalibration:
    """Return the calibration of a method on the rows in `train`, a .jsonl file of the task.

    Raises InputError if the file holds no rows of the task, or if its manifest records another file."""
    task = find_task(train.parent, task_name)
    task.check_trainable()
    rows, train_sha256 = read_prepared(train, task)
    meta = {"task": task.name, "train_sha256": train_sha256, "accumulated": method.accumulated}
    number = settings.calibration_examples
    examples_of = partial(calibration_examples, task=task, rows=rows, number=number, seed=settings.calibration_seed)
    return ExampleCalibration(examples_of, meta)


def calibrate_on_text(method: Method, path: Path, text: CalibrationText) -> ExampleCalibration:
    """Return the calibration of a method on the text in `path`, a .jsonl or .txt file. `text` says how it is read.

    Raises InputError if the file cannot be read, or if the file beside it describes another text."""
    examples_of, meta = read_text(path, text)
    source = meta["text_source"] or {}
    # The examples of a task may be a part of the text.
    meta |= {key: source[key] for key in ("task", "train_sha256") if key in source}
    meta |= {"calibration": method.calibration, "accumulated": method.accumulated}
    return ExampleCalibration(examples_of, meta)


def read_text(path: Path, text: CalibrationText) -> tuple[Callable[[Checkpoint], list[Example]], dict]:
    """Return a function that gives the examples of a text for a checkpoint, and the text's sha256 and source.

    Of a text of windows, they are the first `text.examples` windows. Raises InputError as `calibrate_on_text` does."""
    documents, digest = read_documents(path)
    source = recorded_source(path, digest)
    if source and has_windows(path):
        examples_of = partial(stored_windows, path=path, number=text.examples)
    else:
        examples_of = partial(text_examples, documents=documents, text=text, place=path)
    return examples_of, {"text_sha256": digest, "text_source": source}


def stored_windows(checkpoint: Checkpoint, path: Path, number: int) -> list[Example]:
    """Return the first windows in a file of windows.

    Raises InputError if they are not token ids of the checkpoint's tokenizer, or if the file has fewer windows."""
    rows = read_rows(path, WINDOW)
    tokenizer, words = load_tokenizer(checkpoint.folder), checkpoint.config["vocab_size"]
    if any(max(row["ids"]) >= words or tokenizer.decode(row["ids"]) != row["text"] for row in rows[:number]):
        raise InputError(
            f"{path}: its windows are token ids of another tokenizer than that of {checkpoint.folder}",
            "prepare the text for this model",
        )
    if number > len(rows):
        raise InputError(
            f"{path}: it has {len(rows)} windows, and {number} are asked for",
            f"set the examples in the configuration, or --calibration_examples, to at most {len(rows)}",
        )
    return [Example(row["ids"], row["answer_start"]) for row in rows[:number]]


def calibration_examples(
    checkpoint: Checkpoint,
    task: Task,
    rows: list[Row],
    number: int,
    seed: int,
    key: str = "masks.calibration_examples",
) -> list[Example]:
    """Return `number` of the task's training examples, chosen by `seed`, as the token ids that training reads.

    `key` is the key of the configuration that sets the number. Raises InputError if there are fewer examples, or if one
    is longer than the model's context."""
    limit = model_config(checkpoint.folder).max_position_embeddings
    to_tokens = partial(encode, task=task, tokenizer=load_tokenizer(checkpoint.folder), max_length=limit)
    # Documents become other examples than their rows, so they are encoded before examples are chosen.
    candidates: list[Any] = to_tokens(rows) if task.sequence_length else rows
    if number > len(candidates):
        kind = "sequences" if task.sequence_length else "rows"
        what = f"{key} {number}: {task.name} has only {len(candidates)} training {kind}"
        raise InputError(what, f"lower {key}, or give more rows")
    chosen = random.Random(seed).sample(candidates, number)
    return chosen if task.sequence_length else to_tokens(chosen)


def text_examples(checkpoint: Checkpoint, documents: list[str], text: CalibrationText, place: Path) -> list[Example]:
    """Return the windows of a text as examples. Their loss is on every token but the first.

    Raises InputError with `place` if the text has too few tokens, or if a window is longer than the model's context."""
    limit = model_config(checkpoint.folder).max_position_embeddings
    if text.length > limit:
        raise InputError(
            f"{place}: windows of {text.length} tokens, but the model takes {limit}",
            f"set the length in masks.calibration, or --calibration_length, to at most {limit}",
        )
    encode_text = partial(load_tokenizer(checkpoint.folder).encode, verbose=False)
    windows = choose_windows(documents, encode_text, text, place)
    # The first token is given, because nothing predicts it.
    return [Example(window, 1) for window in windows]


def choose_windows(
    documents: list[str], encode: Callable[[str], list[int]], text: CalibrationText, place: Path
) -> list[list[int]]:
    """Return `text.examples` windows of `text.length` token ids. `encode` returns the token ids of a text.

    The documents are taken in random order. Each one that is longer than a window gives one random window, until there
    are enough. If too few documents are that long, all documents are joined by blank lines, and each window starts at a
    random place of the whole text. `get_wikitext2` does this.

    With the choice `get_c4`, each window comes from any document that is longer, and never starts at the last possible
    token. Source: locuslab/wanda@0628038, lib/data.py, get_c4.

    Raises InputError with the `place` of the text if it has fewer tokens than all windows together, or if `get_c4`
    finds no document that is longer than a window."""
    generator = random.Random(text.seed)
    joins = text.choice != "get_c4"

    def window(ids: list[int]) -> list[int]:
        start = generator.randrange(len(ids) - text.length + joins)
        return ids[start : start + text.length]

    numbers: Iterable[int] = iter(lambda: generator.randrange(len(documents)), None)
    if joins:
        numbers = generator.sample(range(len(documents)), len(documents))
    too_short: set[int] = set()
    windows: list[list[int]] = []
    for number in numbers:
        ids = [] if number in too_short else encode(documents[number])
        if len(ids) > text.length:
            windows.append(window(ids))
        else:
            too_short.add(number)
        if len(windows) == text.examples:
            return windows
        if len(too_short) == len(documents):
            break
    ids = encode(DOCUMENT_BREAK.join(documents))
    if not joins or len(ids) < text.examples * text.length:
        raise InputError(
            f"{place}: its documents are too short for {text.examples:,} windows of {text.length:,} tokens",
            "give more or longer documents, or lower the examples or the length of the calibration",
        )
    return [window(ids) for _ in range(text.examples)]
