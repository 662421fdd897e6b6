"""The batches of a training and of an evaluation as cerebras-pytorch reads them.

On a CS-3 several workers stream every batch, and each one streams its own rows of it.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sparseft.backends.cerebras.package import cstorch
from sparseft.backends.fixed_shapes import fixed_batch
from sparseft.language_model.batches import Example, shuffled
from sparseft.study.schedule import Training


class _Stream(IterableDataset):
    """Make each batch when it is read. Its tensors are (rows, length)."""

    def __init__(self, batches: Callable[[], Iterator[list[Example]]], length: int, rows: int) -> None:
        self.batches = batches
        self.length = length
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (fixed_batch(batch, self.length, self.rows) for batch in self.batches())


def training_batches(examples: list[Example], settings: Training, seed: int, length: int, done: int) -> DataLoader:
    """Return the batches of the backend torch after the first `done`, without end; on a worker, its rows of each."""
    rows, rank = _share(settings.batch_size)

    def own_rows() -> Iterator[list[Example]]:
        for batch in islice(shuffled(examples, settings, seed), done, None):
            yield batch[rank * rows : (rank + 1) * rows]

    return DataLoader(_Stream(own_rows, length, rows), batch_size=None)


def evaluation_batches(examples: list[Example], size: int, length: int) -> DataLoader:
    """Return all examples once, in batches of `size`. The last batch is filled up with padding."""
    rows, rank = _share(size)
    # Every worker must stream as many batches as the others, so all count to the end of the last whole batch.
    starts = range(rank * rows, math.ceil(len(examples) / size) * size, size)
    return DataLoader(
        _Stream(lambda: (examples[start : start + rows] for start in starts), length, rows), batch_size=None
    )


def _share(batch_size: int) -> tuple[int, int]:
    """Return how many rows of a batch this process streams, and its rank: all rows if it is no streaming worker."""
    if not cstorch.distributed.is_streamer():
        return batch_size, 0
    return cstorch.distributed.get_streaming_batch_size(batch_size), cstorch.distributed.get_streaming_rank()
