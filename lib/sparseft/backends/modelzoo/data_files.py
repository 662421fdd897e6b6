"""Batches as ModelZoo's data: an HDF5 file with `data`, int32 (N, 3, T), in the order in which the Trainer reads them.

    data[:, 0]  token ids, padded on the right with 0
    data[:, 1]  loss mask, which ModelZoo calls attention_mask: 1 if the token that follows is the answer's, else 0
    data[:, 2]  labels: the token that follows, or 0 if the loss mask is 0

The rows that fill up the last batch of an evaluation are only padding.

Source: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/data/nlp/gpt/GptHDF5MapDataProcessor.py and
losses/GPTLMHeadModelLoss.py.
"""

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from sparseft.backends.fixed_length import IGNORED, fixed_batch
from sparseft.checkpoints.mdl import Target
from sparseft.language_model.batches import Example
from sparseft.storage.atomic import atomic_file

FILE = "batches.h5"


def write_batches(folder: Path, batches: Iterable[list[Example]], length: int, size: int) -> None:
    """Write `folder`/batches.h5, with `size` rows of `length` tokens per batch. No example may be longer."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / FILE) as temporary, Target(temporary, "w+b") as target:
        try:
            with h5py.File(target, "w") as file:
                data = file.create_dataset(
                    "data",
                    (0, 3, length),
                    "int32",
                    chunks=(1, 3, length),
                    maxshape=(None, 3, length),
                    compression="gzip",
                )
                for batch in batches:
                    data.resize(len(data) + size, axis=0)
                    data[-size:] = _rows(batch, length, size)
                    target.check()
                file.attrs["n_examples"] = len(data)
        finally:
            target.check()


def _rows(batch: list[Example], length: int, size: int) -> np.ndarray:
    """Return the rows of a batch, int32 (B, 3, T)."""
    tensors = fixed_batch(batch, length, size)
    ids = tensors["ids"].numpy()
    labels = tensors["labels"].numpy()
    answers = labels != IGNORED
    return np.stack([ids, answers, np.where(answers, labels, 0)], axis=1).astype(np.int32)
