"""Divide texts into windows of token ids for a calibration, a training and a judgement."""

import random
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.tasks.task import DOCUMENT_BREAK

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
    text gives a fifth of its windows to the calibration and a fifth to those that are held out. These are its last
    ones, so that no document is in two parts. Raises InputError if a text is too short for LEAST windows in each
    part."""
    generator = random.Random(seed)
    parts: dict[str, list[Named]] = {name: [] for name in numbers}
    for name, texts in documents.items():
        ids = tokenizer.encode(DOCUMENT_BREAK.join(texts), verbose=False)
        windows = [(name, Example(ids[start : start + length], 1)) for start in range(0, len(ids) - length + 1, length)]
        share = {part: max(LEAST, number // len(documents)) for part, number in numbers.items()}
        held_out, calibration = (min(share[part], len(windows) // 5) for part in ("held_out", "calibration"))
        if min(held_out, calibration) < LEAST:
            raise InputError(
                f"ship.texts: {name} has {len(windows)} windows of {length} tokens, which are too few to divide",
                f"give a text of {5 * LEAST} windows or more: {5 * LEAST * length:,} tokens",
            )
        parts["held_out"] += windows[-held_out:]
        rest = windows[:-held_out]
        generator.shuffle(rest)
        parts["calibration"] += rest[:calibration]
        parts["training"] += rest[calibration:][: share["training"]]
    for windows in parts.values():
        generator.shuffle(windows)
    return parts
