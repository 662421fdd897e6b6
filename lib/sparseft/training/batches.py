"""Examples as token ids, and batches of them; the loss is on the answer alone.

Tokens are split into prompt and answer as lm-eval splits context and continuation (lm_eval/api/model.py,
_encode_pair), so that training sees the very tokens that evaluation scores.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseft.config import Training
from sparseft.errors import InputError
from sparseft.tasks.task import Row, Task


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and answer; the answer starts at `answer_start`."""

    ids: list[int]
    answer_start: int


@dataclass(frozen=True)
class Batch:
    """`ids` int64 (B, T), padded on the right; the answers' tokens `targets` (N,) stand after `positions` (N,) of the
    flattened (B * T,); `tokens` counts what is not padding."""

    ids: Tensor
    positions: Tensor
    targets: Tensor
    tokens: int

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.ids.to(device), self.positions.to(device), self.targets.to(device), self.tokens)


def encode(rows: list[Row], task: Task, tokenizer, max_length: int) -> list[Example]:
    """Tokenise rows; a generated answer ends in the end-of-sequence token.

    Raises InputError for a row longer than `max_length` tokens: nothing is cut in silence."""
    examples = []
    for number, row in enumerate(rows, start=1):
        prompt = task.prompt(row)
        ids = tokenizer.encode(prompt)
        start = len(ids)
        ids += tokenizer.encode(f"{prompt} {task.answer(row)}")[start:]
        if task.choices is None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) > max_length:
            raise InputError(
                f"{task.name}: example {number} has {len(ids)} tokens, the model takes {max_length}",
                "leave long examples out of the data",
            )
        examples.append(Example(ids, start))
    return examples


def collate(examples: list[Example]) -> Batch:
    """Pad on the right with 0: under causal attention no real token sees a padded one, so no mask is needed."""
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    positions, targets = [], []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        positions += range(row * width + example.answer_start - 1, row * width + len(example.ids) - 1)
        targets += example.ids[example.answer_start :]
    tokens = sum(len(example.ids) for example in examples)
    return Batch(ids, torch.tensor(positions), torch.tensor(targets), tokens)


def shuffled(examples: list[Example], settings: Training, seed: int) -> Iterator[list[Example]]:
    """Batches without end, each sorted by length; every epoch is a new permutation.

    settings.length_buckets batches are drawn, sorted by length together, cut, and put in random order. The same batches
    for the same seed, whatever the mode, so that modes differ in nothing else."""
    generator, queue, size = random.Random(seed), [], settings.batch_size
    while True:
        while len(queue) < size * settings.length_buckets:
            queue += generator.sample(examples, len(examples))
        drawn, queue = queue[: size * settings.length_buckets], queue[size * settings.length_buckets :]
        drawn.sort(key=lambda example: len(example.ids))
        batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        yield from generator.sample(batches, len(batches))
