"""Choose the windows of a text that serve as calibration examples, as Wanda chooses them (locuslab/wanda, lib/data.py).

The documents are taken in random order. Each one that is longer than a window gives one random window, until there are enough.
`get_c4` does this. If too few documents are that long, all documents are joined by blank lines, and each window starts at a
random place of the whole text. `get_wikitext2` does this.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.language_model.model import model_config
from sparseft.study.sources import CalibrationText
from sparseft.tasks.documents import DOCUMENT_BREAK


def text_examples(checkpoint: Checkpoint, documents: list[str], text: CalibrationText, place: Path) -> list[Example]:
    """Return the windows of a text as examples. Their loss is on every token but the first.

    Raises InputError with `place` if the text has too few tokens, or if a window is longer than the model's context."""
    limit = model_config(checkpoint.folder).max_position_embeddings
    if text.length > limit:
        raise InputError(
            f"{place}: windows of {text.length} tokens, but the model takes {limit}",
            f"set the length in masks.calibration, or --calibration_length, to at most {limit}",
        )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    windows = choose_windows(documents, partial(tokenizer.encode, verbose=False), text, place)
    # The first token is given, because nothing predicts it.
    return [Example(window, 1) for window in windows]


def choose_windows(
    documents: list[str], encode: Callable[[str], list[int]], text: CalibrationText, place: Path
) -> list[list[int]]:
    """Return `text.examples` windows of `text.length` token ids. `encode` returns the token ids of a text.

    Raises InputError with the `place` of the text if it has fewer tokens than all windows together."""
    generator = random.Random(text.seed)
    windows: list[list[int]] = []
    for document in generator.sample(documents, len(documents)):
        ids = encode(document)
        if len(ids) > text.length:
            windows.append(_window(ids, text.length, generator))
        if len(windows) == text.examples:
            return windows
    ids = encode(DOCUMENT_BREAK.join(documents))
    if len(ids) < text.examples * text.length:
        raise InputError(
            f"{place}: {len(ids):,} tokens are fewer than {text.examples:,} windows of {text.length:,} tokens",
            "give more text, or lower the examples or the length of the calibration",
        )
    return [_window(ids, text.length, generator) for _ in range(text.examples)]


def _window(ids: list[int], length: int, generator: random.Random) -> list[int]:
    """Return `length` consecutive ids that start at a random place."""
    start = generator.randrange(len(ids) - length + 1)
    return ids[start : start + length]
