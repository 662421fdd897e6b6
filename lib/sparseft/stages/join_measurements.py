"""Join the measurements of a cell's batch sizes into the one file that analyze_throughput.py reads.

    join_measurements.py --records results/throughput/CELL/*/measurement.json --output results/throughput/CELL.json

measure_cerebras.py wrote the files, one per repeat and batch size. Measurements under different conditions are refused.
"""

from pathlib import Path

from sparseft.common.errors import InputError
from sparseft.evaluation.throughput_record import (
    MEASURED,
    BatchRecord,
    ConditionsRecord,
    MeasurementRecord,
    ThroughputRecord,
)
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import read_record_file, write

# Raise it when the results change.
VERSION = 1
CONDITIONS = ConditionsRecord.model_fields.keys() - {"record"}
PROGRAM = {"micro_batch_size", "compile_hash"}


def run(*, records: list[Path], output: Path) -> None:
    """Join the measurements, and write the record.

    Args:
        records: the measurements of the batch sizes of one cell
        output: the measurement of the cell
    """
    claim_record(output, "throughput", records)
    measured = [read_record_file(path, MeasurementRecord) for path in records]
    conditions = [one.model_dump(include=CONDITIONS) for one in measured]
    for path, values in zip(records, conditions, strict=True):
        if differing := sorted(name for name, value in values.items() if value != conditions[0][name]):
            what = f"{path}: {', '.join(differing)} differ from those of {records[0]}"
            raise InputError(what, "remove both, and measure again")
    # Each repeat names the compiled program of its batch size.
    repeats = {
        (one.batch_size, one.seed): one.repeat.model_copy(update=one.model_dump(include=PROGRAM)) for one in measured
    }
    sizes, seeds = (sorted(set(values)) for values in zip(*repeats, strict=True))
    if len(repeats) != len(records) or len(records) != len(sizes) * len(seeds):
        what = f"{records[0].parent.parent}: not {len(seeds)} repeats of every batch size"
        raise InputError(what, "measure them again")
    batches = [
        BatchRecord(batch_size=size, status=MEASURED, reason=None, repeats=[repeats[size, seed] for seed in seeds])
        for size in sizes
    ]
    # A CS-3 has no limit that a study could set.
    common = conditions[0] | {"memory_limit_kind": None, "memory_limit_bytes": None}
    write(output, ThroughputRecord(**common, repeats=len(seeds), batch_sizes=sizes, batches=batches))
