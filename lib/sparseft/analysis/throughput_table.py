"""Make the table of batch sizes from the measurements of `snakemake throughput`. They are not runs.

Each batch size is measured several times. Over these repeats the table has the mean, and its 95 % confidence interval by
Student's t, blank for one repeat. It has the largest peak memory, and the smallest share of its threads' time that a CPU gave
the training. Far below 1, other work disturbed it.

On a CPU the peak is resident memory, and the limit one of private memory. Private memory counts what is reserved and not yet
used, and does not count files that are mapped. So memory can end below the limit's figure and above it, and each of the two
has its `kind` beside it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import sem

from sparseft.analysis.columns import THROUGHPUT
from sparseft.analysis.records import BatchRecord, ThroughputRecord
from sparseft.analysis.statistics import t_interval
from sparseft.analysis.tables import tidy
from sparseft.study.grid import Cell


@dataclass(frozen=True)
class Rate:
    """Hold the mean of a rate over the repeats, and the ends of its 95 % confidence interval; None if it has none."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MeasuredBatch:
    """Hold a batch size of a cell's measurements, and compute what the repeats of it give."""

    cell: Cell
    measurement: ThroughputRecord
    batch: BatchRecord

    @property
    def repeats(self) -> int:
        """Return the number of repeats."""
        return len(self.batch.repeats)

    @property
    def dtype(self) -> str | None:
        """Return the dtype of the model's weights, the same in all repeats."""
        return self.batch.repeats[0].dtype if self.repeats else None

    @property
    def samples_per_second(self) -> Rate:
        """Return the examples per second."""
        return _rate(self._values("samples") / self._values("seconds"))

    @property
    def tokens_per_second(self) -> Rate:
        """Return the tokens per second, without padding."""
        return _rate(self._values("tokens") / self._values("seconds"))

    @property
    def tokens_per_sample(self) -> float | None:
        """Return the mean length of an example, in tokens."""
        return self._values("tokens").sum() / self._values("samples").sum() if self.repeats else None

    @property
    def tokens_per_sample_padded(self) -> float | None:
        """Return the mean length of an example with its padding, in tokens."""
        return self._values("padded_tokens").sum() / self._values("samples").sum() if self.repeats else None

    @property
    def peak_memory_bytes(self) -> int | None:
        """Return the largest peak memory of the repeats."""
        return max((repeat.peak_memory_bytes for repeat in self.batch.repeats), default=None)

    @property
    def cpu_share(self) -> float | None:
        """Return the smallest share of its threads' time that the CPU gave to a repeat."""
        return min((repeat.cpu_share for repeat in self.batch.repeats if repeat.cpu_share is not None), default=None)

    def _values(self, name: str) -> np.ndarray:
        """Return a field of every repeat, (repeats,)."""
        return np.array([getattr(repeat, name) for repeat in self.batch.repeats])


def throughput_table(measurements: Iterable[ThroughputRecord]) -> pd.DataFrame:
    """Return a row per cell and batch size."""
    rows = [
        THROUGHPUT.row_of(MeasuredBatch(Cell.parse(measurement.cell), measurement, batch))
        for measurement in measurements
        for batch in measurement.batches
    ]
    return tidy(pd.DataFrame(rows), ["model", "task", "method", "sparsity", "mode", "training", "device", "batch_size"])


def _rate(values: np.ndarray) -> Rate:
    """Return the mean and the interval of `values`, (repeats,)."""
    if not len(values):
        return Rate()
    mean = values.mean()
    if len(values) == 1:
        return Rate(mean)
    low, high = map(float, t_interval(mean, sem(values), len(values)))
    return Rate(mean, low, high)
