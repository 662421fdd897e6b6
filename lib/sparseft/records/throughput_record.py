"""Define throughput/CELL.json: the training speed of a cell against its batch size.

The kinds of memory say what the bytes of the peak and of the limit count. On a CPU they differ. The backend cerebras has no
limit: a batch size that does not fit there is not compiled, and no file is written.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, create_model

from sparseft.errors import InputError
from sparseft.records.record_file import (
    Count,
    NonNegative,
    Positive,
    PositiveCount,
    RecordFile,
    RecordPart,
    kind,
    measurement,
    provenance,
    read_record_file,
    section_fields,
    setting,
)
from sparseft.study.config import Throughput, Training
from sparseft.study.grid import MEASURED, OUT_OF_MEMORY, SKIPPED, Cell

# What may become of the batch sizes of a cell, from the smallest to the largest.
ORDER = (MEASURED, OUT_OF_MEMORY, SKIPPED)
# The keys of `training:` that a measurement keeps.
KEPT_KEYS = [name for name in Training.model_fields if name not in Throughput.DECIDED]


class RepeatRecord(RecordPart):
    """Hold one measurement of a batch size."""

    seconds: Positive = measurement("The time of the timed steps.", "s")
    samples: PositiveCount = measurement("The examples of the timed steps.")
    tokens: PositiveCount = measurement("Their tokens without padding.", "tokens")
    padded_tokens: PositiveCount = measurement("Their tokens with padding.", "tokens")
    peak_memory_bytes: Count = measurement("The largest memory.", "bytes")
    cpu_share: NonNegative | None = measurement(
        "The share of its threads' time that the CPU gave it. Null on another device.", "fraction"
    )
    dtype: str = setting("The number format of the weights.")
    micro_batch_size: PositiveCount | Literal["auto"] | None = provenance(
        "Examples per forward pass on Cerebras' backends.", default=None
    )
    compile_hash: str | None = provenance("The digest of the CS-3's program. Null elsewhere.", default=None)

    def contradictions(self) -> Iterator[str]:
        """Yield whether padding would take tokens away."""
        if self.tokens > self.padded_tokens:
            yield f"{self.tokens} tokens, {self.padded_tokens} with padding"


class BatchRecord(RecordPart):
    """Hold a batch size of a measurement. If it does not fit, it has no repeats."""

    batch_size: PositiveCount = measurement("Examples per step.")
    status: Literal[ORDER] = measurement("Whether it was measured, or did not fit into memory, or was not tried.")
    reason: str | None = measurement("What the system reported if it did not fit.")
    repeats: list[RepeatRecord] = measurement("The measurements.")


class MeasuredInputs(RecordPart):
    """Hold the digests of what was measured."""

    model: str = provenance("The digest of the base.")
    mask: str = provenance("The sha256 of the mask.")
    train: str = provenance("The sha256 of the training rows.")


KeptTraining = create_model(
    "KeptTraining", __base__=RecordFile, record=(str, kind("")), **section_fields(Training, KEPT_KEYS)
)


class ConditionsRecord(KeptTraining):
    """Record under which conditions a cell was measured."""

    cell: str = provenance("The name of the runs without their seed.")
    backend: str = setting("The backend that trained.")
    device: str = setting("The device that trained.")
    threads: Count = setting("The CPU threads.")
    processes: PositiveCount = setting("The processes that shared every step.")
    cerebras: dict[str, int | str | None] | None = setting(
        "The keys of `cerebras:` that decide the result. Null on other backends.", default=None
    )
    sequence_length: int | None = setting("The tokens per example. Null for the examples' own lengths.", "tokens")
    warmup_steps: Count = setting("The steps before the clock starts.")
    steps: PositiveCount = setting("The timed steps.")
    peak_memory_kind: str = provenance("What the peak memory counts.")
    versions: dict[str, str] = provenance("The version of each package.")
    inputs: MeasuredInputs = provenance("The digests of what was measured.")


class MeasurementRecord(ConditionsRecord):
    """Record one repeat of one batch size on Cerebras' backends."""

    file_name: ClassVar[str] = "measurement.json"
    record: Literal["measurement"] = kind("measurement")
    micro_batch_size: PositiveCount | Literal["auto"] = provenance("Examples per forward pass.")
    compile_hash: str | None = provenance("The digest of the CS-3's program. Null on a CPU.")
    batch_size: PositiveCount = measurement("Examples per step.")
    seed: Count = provenance("The seed of the repeat.")
    repeat: RepeatRecord = measurement("The measurement.")


class ThroughputRecord(ConditionsRecord):
    """Record all measurements of a cell."""

    file_name: ClassVar[str] = "CELL.json"
    record: Literal["throughput"] = kind("throughput")
    repeats: PositiveCount = measurement("The measurements per batch size.")
    memory_limit_kind: str | None = provenance("What the memory limit counts. Null without a limit.")
    memory_limit_bytes: Count | None = provenance("The memory limit. Null without one.", "bytes")
    batch_sizes: list[int] = measurement("The batch sizes that were asked for.")
    batches: Annotated[list[BatchRecord], Field(min_length=1)] = measurement("The result of each batch size.")

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
        measured = read_record_file(path, ThroughputRecord)
        if Cell.parse(measured.cell).id != path.stem:
            raise InputError(f"{path.name}: belongs to cell {measured.cell}", "make it again")
        if measured.cell in sources:
            raise InputError(f"{path}: the cell of {sources[measured.cell]} again", "give one of them")
        sources[measured.cell] = path
        measurements.append(measured)
    return measurements
