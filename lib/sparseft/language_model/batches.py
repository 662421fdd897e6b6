"""Examples as token ids, and batches of them; the loss is on the answer alone.

Tokens are split into prompt and answer as lm-eval splits context and continuation (lm_eval/api/model.py,
_encode_pair), so that training sees the very tokens that evaluation scores.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseft.errors import InputError
from sparseft.study.config import Training
from sparseft.tasks.task import Row, Task


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and answer; the answer starts at `answer_start`."""

    ids: list[int]
    answer_start: int


@dataclass(frozen=True)
class Batch:
    """`ids` int64 (B, T), padded on the right; the answers' tokens `targets` (N,) stand after `positions` (N,) of the
    flattened (B * T,)."""

    ids: Tensor
    positions: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.ids.to(device), self.positions.to(device), self.targets.to(device))


def encode(rows: list[Row], task: Task, tokenizer, max_length: int) -> list[Example]:
    """Return the rows as token ids; a generated answer ends in the end-of-sequence token.

    Raises InputError where an answer cannot be told from its prompt by tokens, and where rows are longer than
    `max_length` tokens: nothing is cut in silence."""
    examples, divisible = [], []
    for row in rows:
        text = task.prompt(row)
        # lm-eval moves the spaces at a prompt's end to the answer.
        prompt, whole = tokenizer.encode(text.rstrip()), tokenizer.encode(f"{text} {task.answer(row)}")
        divisible.append(continues(prompt, whole))
        end = [tokenizer.eos_token_id] if task.choices is None else []
        examples.append(Example(whole + end, len(prompt)))
    refuse_indivisible(task.name, divisible)
    refuse_longer(f"{task.name}: examples", [len(example.ids) for example in examples], max_length)
    return examples


def continues(prompt: list[int], whole: list[int]) -> bool:
    """Return whether `whole`, the ids of prompt and answer, are those of the prompt and then one or more."""
    return 0 < len(prompt) < len(whole) and whole[: len(prompt)] == prompt


def refuse_indivisible(task: str, divisible: list[bool]) -> None:
    """Raise InputError where rows are not `divisible` into the tokens of the prompt and those of the answer.

    A tokenizer that ends every text with a token of its own would leave only that token to be scored."""
    refuse_rows(
        f"{task}: the tokens of a prompt are not the first of prompt and answer, or the answer has none,",
        [not each for each in divisible],
        "take a tokenizer that appends no token to a text and joins none over the space before the answer"
        " (post_processor and pre_tokenizer in tokenizer.json)",
    )


def refuse_rows(what: str, wrong: list[bool], mend: str) -> None:
    """Raise InputError where rows are `wrong`, with their count and the number of the first."""
    if any(wrong):
        raise InputError(f"{what} in {sum(wrong)} of {len(wrong)} rows, number {wrong.index(True) + 1} first", mend)


def refuse_longer(
    what: str,
    lengths: list[int],
    limit: int,
    mend: str = "leave them out of the data, or take a model with a longer context",
) -> None:
    """Raises InputError, with all that are longer counted, where `lengths` in tokens exceed `limit`."""
    longer = [number for number, length in enumerate(lengths, start=1) if length > limit]
    if longer:
        raise InputError(
            f"{what}: {len(longer)} of {len(lengths)} have more tokens than the {limit} allowed, number {longer[0]}"
            f" first, the longest {max(lengths)}",
            mend,
        )


def of_length(example: Example, length: int) -> Example:
    """The last `length` tokens of an example that is repeated as often as they need; as many of them answer."""
    ids = (example.ids * -(-length // len(example.ids)))[-length:]
    return Example(ids, max(1, length - len(example.ids) + example.answer_start))


def collate(examples: list[Example], multiple: int = 1) -> Batch:
    """Pad on the right with 0, to a multiple: under causal attention no real token sees a padded one, so no mask is needed."""
    width = max(len(example.ids) for example in examples)
    width += -width % multiple
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    positions, targets = [], []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        positions += range(row * width + example.answer_start - 1, row * width + len(example.ids) - 1)
        targets += example.ids[example.answer_start :]
    return Batch(ids, torch.tensor(positions), torch.tensor(targets))


def shuffled(examples: list[Example], settings: Training, seed: int) -> Iterator[list[Example]]:
    """Batches without end; every epoch is a new permutation, and what fills no batch goes to the next epoch's first.

    The other batches of an epoch are sorted by length settings.length_buckets at a time, cut, and put in random order.
    The same batches for the same seed, whatever the mode, so that modes differ in nothing else."""
    generator, left, size = random.Random(seed), [], settings.batch_size
    while True:
        epoch = generator.sample(examples, len(examples))
        first = left + epoch[: (size - len(left)) % size]
        epoch = epoch[(size - len(left)) % size :]
        if len(first) % size:  # fewer examples than a batch holds
            left = first
            continue
        whole = len(epoch) // size * size
        left = epoch[whole:]
        if first:
            yield first
        for start in range(0, whole, size * settings.length_buckets):
            yield from _by_length(epoch[start : min(start + size * settings.length_buckets, whole)], size, generator)


def _by_length(window: list[Example], size: int, generator: random.Random) -> list[list[Example]]:
    window = sorted(window, key=lambda example: len(example.ids))
    batches = [window[start : start + size] for start in range(0, len(window), size)]
    return generator.sample(batches, len(batches))
