"""Divide texts into windows of token ids for a calibration, a training and a judgement."""

import random
from collections.abc import Mapping
from itertools import chain, cycle, islice

from transformers import PreTrainedTokenizerBase

from sparseft.axes.tasks.task import DOCUMENT_BREAK
from sparseft.common.errors import InputError
from sparseft.models.language_model.batches import Example

# The smallest number of windows of a part, so that a mean over them has a standard error that says something.
LEAST = 8
# A window, with the name of its text.
Named = tuple[str, Example]


def divided(
    documents: Mapping[str, list[str]],
    tokenizer: PreTrainedTokenizerBase,
    numbers: Mapping[str, int],
    length: int,
    seed: int,
) -> dict[str, list[Named]]:
    """Return the windows of texts, each by its name, that are for the calibration, for the training, and held out.

    `numbers` are the windows of each part, of all texts together. Each text gives an equal number to each part. A short
    text gives a fifth of its windows to the calibration and a fifth to those that are held out, and the windows of the
    other two parts come again until there are enough. The last windows are held out: only the document in which they
    begin is also in another part. Raises InputError if a text is too short for LEAST windows in each part."""
    generator = random.Random(seed)
    # The windows of each part, by text.
    parts: dict[str, list[list[Named]]] = {part: [] for part in ("calibration", "training", "held_out")}
    for name, texts in documents.items():
        # A document that comes twice would be in two parts.
        ids = tokenizer.encode(DOCUMENT_BREAK.join(dict.fromkeys(texts)), verbose=False)
        starts = range(0, len(ids) - length + 1, length)
        windows = [(name, Example(ids[start : start + length], 1)) for start in starts]
        fifth = len(windows) // 5
        if fifth < LEAST:
            raise InputError(
                f"ship.texts: {name} has {len(windows)} windows of {length} tokens, which are too few to divide",
                f"give a text of {5 * LEAST} windows or more: {5 * LEAST * length:,} tokens",
            )
        last, first = (min(fifth, max(LEAST, numbers[part] // len(documents))) for part in ("held_out", "calibration"))
        rest = windows[:-last]
        generator.shuffle(rest)
        for of_part, own in zip(parts.values(), (rest[:first], rest[first:], windows[-last:]), strict=True):
            of_part.append(own)
    held_out = list(chain.from_iterable(parts.pop("held_out")))
    # The texts take turns.
    turns = {part: chain.from_iterable(zip(*map(cycle, of_texts), strict=True)) for part, of_texts in parts.items()}
    return {part: list(islice(turns[part], numbers[part])) for part in turns} | {"held_out": held_out}
