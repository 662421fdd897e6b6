"""Define throughput/CELL.json: the training speed of a cell against its batch size.

The kinds of memory say what the bytes of the peak and of the limit count. On a CPU they differ. The backend cerebras
has no
limit: a batch size that does not fit there is not compiled, and no file is written.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import create_model

from sparseft.errors import InputError
from sparseft.records import Count, CpuShare, Keys, Positive, PositiveCount, measurement, provenance, setting
from sparseft.records.record_file import Inputs, RecordFile, RecordPart, kind, read_record_file, section_fields
from sparseft.study.grid import Cell
from sparseft.study.schedule import Throughput, Training
from sparseft.study.section import Role

# The possible results of measuring a batch size.
MEASURED = "measured"
OUT_OF_MEMORY = "out of memory"
SKIPPED = "skipped: a smaller batch did not fit"


class RepeatRecord(RecordPart):
    """Hold one measurement of a batch size."""

    seconds: Positive = measurement("The time of the timed steps.", "s")
    samples: PositiveCount = measurement("The examples of the timed steps.")
    tokens: PositiveCount = measurement("Their tokens without padding.", "tokens")
    padded_tokens: PositiveCount = measurement("Their tokens with padding.", "tokens")
    peak_memory_bytes: Count = measurement("The largest memory.", "bytes")
    cpu_share: CpuShare | None = measurement("The share of its threads' time that the CPU gave it.", "fraction")
    dtype: str = setting("The number format of the weights.")
    micro_batch_size: PositiveCount | Literal["auto"] | None = provenance("Set on Cerebras' backends.", default=None)
    compile_hash: str | None = provenance("The digest of the CS-3's program. Null elsewhere.", default=None)


class BatchRecord(RecordPart):
    """Hold a batch size of a measurement. If it does not fit, it has no repeats."""

    batch_size: PositiveCount = measurement("Examples per step.")
    status: Literal[MEASURED, OUT_OF_MEMORY, SKIPPED] = measurement(  # type: ignore[valid-type]  # constants
        "Whether it was measured, or did not fit into memory, or was not tried."
    )
    reason: str | None = measurement("What the system reported if it did not fit.")
    repeats: list[RepeatRecord] = measurement("The measurements.")


class MeasuredInputs(Inputs):
    """Hold the digests of what was measured."""

    train: str = provenance("The sha256 of the training rows.")


_KEYS = section_fields(
    Training, [name for name in Training.model_fields if name not in Training.keys_of(Role.MEASUREMENT)]
)
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
