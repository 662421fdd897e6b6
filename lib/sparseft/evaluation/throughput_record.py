"""Define throughput/CELL.json: the training speed of a cell against its batch size.

The kinds of memory say what the bytes of the peak and of the limit count. On a CPU they differ. The backend cerebras
has no
limit: a batch size that does not fit there is not compiled, and no file is written.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import create_model

from sparseft.axes.grid import Cell
from sparseft.common.errors import InputError
from sparseft.storage.fields import Count, CpuShare, Keys, Positive, PositiveCount, field, setting
from sparseft.storage.record_file import Inputs, RecordFile, RecordPart, kind, read_record_file, section_fields
from sparseft.training.settings import MEASURED_KEYS, PARTIAL, Throughput, Training

# The possible results of measuring a batch size.
MEASURED = "measured"
OUT_OF_MEMORY = "out of memory"
SKIPPED = "skipped: a smaller batch did not fit"


class RepeatRecord(RecordPart):
    """Hold one measurement of a batch size."""

    seconds: Positive = field("The time of the timed steps.", "s")
    samples: PositiveCount = field("The examples of the timed steps.")
    tokens: PositiveCount = field("Their tokens without padding.", "tokens")
    padded_tokens: PositiveCount = field("Their tokens with padding.", "tokens")
    peak_memory_bytes: Count = field("The largest memory.", "bytes")
    cpu_share: CpuShare | None = field("The share of its threads' time that the CPU gave it.", "fraction")
    dtype: str = setting("The number format of the weights.")
    micro_batch_size: PositiveCount | Literal["auto"] | None = field("Set on Cerebras' backends.", default=None)
    compile_hash: str | None = field("The digest of the CS-3's program. Null elsewhere.", default=None)


class BatchRecord(RecordPart):
    """Hold a batch size of a measurement. If it does not fit, it has no repeats."""

    batch_size: PositiveCount = field("Examples per step.")
    status: Literal[MEASURED, OUT_OF_MEMORY, SKIPPED] = field(  # type: ignore[valid-type]  # constants
        "Whether it was measured, or did not fit into memory, or was not tried."
    )
    reason: str | None = field("What the system reported if it did not fit.")
    repeats: list[RepeatRecord] = field("The measurements.")


class MeasuredInputs(Inputs):
    """Hold the digests of what was measured."""

    train: str = field("The sha256 of the training rows.")


_KEYS = section_fields(Training, [name for name in Training.model_fields if name not in MEASURED_KEYS], PARTIAL)
_KEYS |= section_fields(Throughput, ("sequence_length", "warmup_steps", "steps"), ())
Measured = create_model("Measured", __base__=RecordFile, **_KEYS)


class ConditionsRecord(Measured):
    """Record under which conditions a cell was measured."""

    cell: str = field("The name of the runs without their seed.")
    backend: str = setting("The backend that trained.")
    device: str = setting("The device that trained.")
    threads: Count = setting("The CPU threads.")
    processes: PositiveCount = setting("The processes that shared every step.")
    cerebras: Keys | None = setting("The keys of `cerebras:`. Null on other backends.", default=None)
    peak_memory_kind: str = field("What the peak memory counts.")
    versions: dict[str, str] = field("The version of each package.")
    inputs: MeasuredInputs = field("The digests of what was measured.")


class MeasurementRecord(ConditionsRecord):
    """Record one repeat of one batch size on Cerebras' backends."""

    record: Literal["measurement"] = kind("measurement")
    micro_batch_size: PositiveCount | Literal["auto"] = field("Examples per forward pass.")
    compile_hash: str | None = field("The digest of the CS-3's program. Null on a CPU.")
    batch_size: PositiveCount = field("Examples per step.")
    seed: Count = field("The seed of the repeat.")
    repeat: RepeatRecord = field("The measurement.")


class ThroughputRecord(ConditionsRecord):
    """Record all measurements of a cell."""

    record: Literal["throughput"] = kind("throughput")
    repeats: PositiveCount = field("The measurements per batch size.")
    memory_limit_kind: str | None = field("What the memory limit counts. Null without a limit.")
    memory_limit_bytes: Count | None = field("The memory limit. Null without one.", "bytes")
    batch_sizes: list[PositiveCount] = field("The batch sizes that were asked for.")
    batches: list[BatchRecord] = field("The result of each batch size.", min_length=1)


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
