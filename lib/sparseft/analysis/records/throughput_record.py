"""Read results/throughput/*.json: the training speed of a cell against its batch size."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sparseft.analysis.records.record_file import Count, NonNegative, Positive, PositiveCount, RecordPart, read_file
from sparseft.errors import InputError
from sparseft.study.grid import MEASURED, OUT_OF_MEMORY, SKIPPED, Cell

# What may become of the batch sizes of a cell, from the smallest to the largest.
ORDER = (MEASURED, OUT_OF_MEMORY, SKIPPED)


class RepeatRecord(RecordPart):
    """Check one measurement of a batch size. `seconds` is the time of the timed steps."""

    seconds: Positive
    samples: PositiveCount
    tokens: PositiveCount
    padded_tokens: PositiveCount
    peak_memory_bytes: Count
    cpu_share: NonNegative | None
    dtype: str

    def contradictions(self) -> Iterator[str]:
        """Yield whether padding would take tokens away."""
        if self.tokens > self.padded_tokens:
            yield f"{self.tokens} tokens, {self.padded_tokens} with padding"


class BatchRecord(RecordPart):
    """Check a batch size of a measurement. If it does not fit, it has no repeats, and `reason` is what the system reported."""

    batch_size: PositiveCount
    status: Literal[MEASURED, OUT_OF_MEMORY, SKIPPED]
    reason: str | None
    repeats: list[RepeatRecord]


class MeasuredInputs(RecordPart):
    """Hold the sha256 of what was measured."""

    model: str
    mask: str
    train: str


class ThroughputRecord(RecordPart):
    """Check the measurements of one cell. Old files have no inputs.

    The two kinds say what the bytes of the peak and of the limit count. On a CPU they differ. The backend cerebras has no
    limit: a batch size that does not fit there is not compiled, and no file is written."""

    cell: str
    device: str
    threads: Count
    processes: PositiveCount
    gradient: str
    lora_r: PositiveCount | None = None
    gradient_checkpointing: bool | None = None
    inputs: MeasuredInputs | None = None
    sequence_length: int | None
    warmup_steps: Count
    steps: Annotated[int, Field(gt=0)]
    repeats: Annotated[int, Field(gt=0)]
    peak_memory_kind: str
    memory_limit_kind: str | None
    memory_limit_bytes: Count | None
    batch_sizes: list[int]
    batches: Annotated[list[BatchRecord], Field(min_length=1)]

    def contradictions(self) -> Iterator[str]:
        """Yield what is wrong with the batch sizes, the memory limit and the repeats."""
        sizes = [batch.batch_size for batch in self.batches]
        if sizes != sorted(set(self.batch_sizes)):
            yield f"batch sizes {sizes}, {self.batch_sizes} were asked for"
        yield from self._memory_contradictions()
        for batch in self.batches:
            yield from self._batch_contradictions(batch)
        if len({repeat.dtype for batch in self.batches for repeat in batch.repeats}) > 1:
            yield "repeats in several dtypes"

    def _memory_contradictions(self) -> Iterator[str]:
        """Yield what is wrong with the memory limit, and with the batch sizes that did not fit."""
        if (self.memory_limit_bytes is None) != (self.memory_limit_kind is None):
            yield "a memory limit without its kind, or a kind without its bytes"
        statuses = [batch.status for batch in self.batches]
        memory_ended = statuses[-1] != MEASURED
        if statuses != sorted(statuses, key=ORDER.index) or statuses.count(OUT_OF_MEMORY) != memory_ended:
            yield "memory ends once, and no larger batch is measured"
        if memory_ended and self.memory_limit_bytes is None:
            yield "memory ended without a limit"

    def _batch_contradictions(self, batch: BatchRecord) -> Iterator[str]:
        """Yield a wrong number of repeats of a batch size, or of samples in one of them."""
        if len(batch.repeats) != (self.repeats if batch.status == MEASURED else 0):
            yield f"batch size {batch.batch_size}: {batch.status}, with {len(batch.repeats)} repeats"
        if {repeat.samples for repeat in batch.repeats} - {batch.batch_size * self.steps}:
            yield f"batch size {batch.batch_size}: a repeat of other than {self.steps} steps"


def read_measurements(paths: Iterable[Path]) -> list[ThroughputRecord]:
    """Return the measurements of several cells, one per file.

    Raises InputError if a file is unsound, is named after another cell, or has a cell that was already read."""
    sources: dict[str, Path] = {}
    measurements = []
    for path in paths:
        measurement = read_file(path, ThroughputRecord)
        if Cell.parse(measurement.cell).id != path.stem:
            raise InputError(f"{path.name}: belongs to cell {measurement.cell}", "make it again")
        if measurement.cell in sources:
            raise InputError(f"{path}: the cell of {sources[measurement.cell]} again", "give one of them")
        sources[measurement.cell] = path
        measurements.append(measurement)
    return measurements
