"""Define throughput/CELL.json: the training speed of a cell against its batch size.

The kinds of memory say what the bytes of the peak and of the limit count. On a CPU they differ. The backend cerebras has no
limit: a batch size that does not fit there is not compiled, and no file is written.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import create_model

from sparseft.errors import InputError
from sparseft.records import Count, Keys, NonNegative, Positive, PositiveCount, measurement, provenance, setting
from sparseft.records.record_file import CheckedPart, RecordFile, RecordPart, kind, read_record_file, section_fields
from sparseft.study.grid import MEASURED, OUT_OF_MEMORY, SKIPPED, Cell
from sparseft.study.schedule import Throughput, Training

# What may become of the batch sizes of a cell, from the smallest to the largest.
ORDER = (MEASURED, OUT_OF_MEMORY, SKIPPED)


class RepeatRecord(CheckedPart):
    """Hold one measurement of a batch size."""

    seconds: Positive = measurement("The time of the timed steps.", "s")
    samples: PositiveCount = measurement("The examples of the timed steps.")
    tokens: PositiveCount = measurement("Their tokens without padding.", "tokens")
    padded_tokens: PositiveCount = measurement("Their tokens with padding.", "tokens")
    peak_memory_bytes: Count = measurement("The largest memory.", "bytes")
    cpu_share: NonNegative | None = measurement("The share of its threads' time that the CPU gave it.", "fraction")
    dtype: str = setting("The number format of the weights.")
    micro_batch_size: PositiveCount | Literal["auto"] | None = provenance("Set on Cerebras' backends.", default=None)
    compile_hash: str | None = provenance("The digest of the CS-3's program. Null elsewhere.", default=None)

    def contradictions(self) -> dict[str, object]:
        """Return that padding takes tokens away."""
        return {f"{self.tokens} tokens, {self.padded_tokens} with padding": self.tokens > self.padded_tokens}


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


_KEYS = section_fields(Training, [name for name in Training.model_fields if name not in Throughput.DECIDED])
_KEYS |= section_fields(Throughput, ("sequence_length", "warmup_steps", "steps"))
Measured = create_model("Measured", __base__=RecordFile, **_KEYS)


class ConditionsRecord(Measured):
    """Record under which conditions a cell was measured."""

    cell: str = provenance("The name of the runs without their seed.")
    backend: str = setting("The backend that trained.")
    device: str = setting("The device that trained.")
    threads: Count = setting("The CPU threads.")
    processes: PositiveCount = setting("The processes that shared every step.")
    cerebras: Keys | None = setting("The keys of `cerebras:`. Null on other backends.", default=None)
    peak_memory_kind: str = provenance("What the peak memory counts.")
    versions: dict[str, str] = provenance("The version of each package.")
    inputs: MeasuredInputs = provenance("The digests of what was measured.")


class MeasurementRecord(ConditionsRecord):
    """Record one repeat of one batch size on Cerebras' backends."""

    record: Literal["measurement"] = kind("measurement")
    micro_batch_size: PositiveCount | Literal["auto"] = provenance("Examples per forward pass.")
    compile_hash: str | None = provenance("The digest of the CS-3's program. Null on a CPU.")
    batch_size: PositiveCount = measurement("Examples per step.")
    seed: Count = provenance("The seed of the repeat.")
    repeat: RepeatRecord = measurement("The measurement.")


class ThroughputRecord(ConditionsRecord):
    """Record all measurements of a cell."""

    record: Literal["throughput"] = kind("throughput")
    repeats: PositiveCount = measurement("The measurements per batch size.")
    memory_limit_kind: str | None = provenance("What the memory limit counts. Null without a limit.")
    memory_limit_bytes: Count | None = provenance("The memory limit. Null without one.", "bytes")
    batch_sizes: list[PositiveCount] = measurement("The batch sizes that were asked for.")
    batches: list[BatchRecord] = measurement("The result of each batch size.", min_length=1)

    def contradictions(self) -> dict[str, object]:
        """Return what may be wrong with the batch sizes, the memory limit and the repeats."""
        sizes = [batch.batch_size for batch in self.batches]
        statuses = [batch.status for batch in self.batches]
        memory_ended = statuses[-1] != MEASURED
        has_order = statuses == sorted(statuses, key=ORDER.index) and statuses.count(OUT_OF_MEMORY) == memory_ended
        limit, of_kind = self.memory_limit_bytes, self.memory_limit_kind
        wrong = {
            f"batch sizes {sizes}, {self.batch_sizes} were asked for": sizes != sorted(set(self.batch_sizes)),
            "a memory limit without its kind, or a kind without its bytes": (limit is None) != (of_kind is None),
            "memory ends once, and no larger batch is measured": not has_order,
            "memory ended without a limit": memory_ended and limit is None,
            "repeats in several dtypes": len({repeat.dtype for batch in self.batches for repeat in batch.repeats}) > 1,
        }
        for batch in self.batches:
            wrong |= self._batch_contradictions(batch)
        return wrong

    def _batch_contradictions(self, batch: BatchRecord) -> dict[str, object]:
        """Return a wrong number of repeats of a batch size, and of samples in one of them."""
        place = f"batch size {batch.batch_size}"
        expected = self.repeats if batch.status == MEASURED else 0
        samples = {repeat.samples for repeat in batch.repeats} - {batch.batch_size * self.steps}
        return {
            f"{place}: {batch.status}, with {len(batch.repeats)} repeats": len(batch.repeats) != expected,
            f"{place}: a repeat of other than {self.steps} steps": samples,
        }


def read_measurements(paths: Iterable[Path]) -> list[ThroughputRecord]:
    """Return the measurements of several cells, one per file.

    Raises InputError if a file is unsound, is named after another cell, or has a cell that was already read."""
    measurements: dict[str, ThroughputRecord] = {}
    for path in paths:
        measured = read_record_file(path, ThroughputRecord)
        if Cell.parse(measured.cell).id != path.stem:
            raise InputError(f"{path.name}: belongs to cell {measured.cell}", "make it again")
        if measured.cell in measurements:
            raise InputError(f"{path}: the cell of another file again", "give one of them")
        measurements[measured.cell] = measured
    return list(measurements.values())
