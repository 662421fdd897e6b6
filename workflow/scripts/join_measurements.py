"""Join the measurements of a cell's batch sizes into the one file that analyze_throughput.py reads.

    join_measurements.py --records results/throughput/CELL/*/measurement.json --output results/throughput/CELL.json

measure_cerebras.py wrote the files, one per repeat and batch size. Measurements under different conditions are refused.
"""

from pathlib import Path

from sparseft.command import run
from sparseft.errors import InputError
from sparseft.records.record_file import write
from sparseft.records.throughput_record import MEASURED, ThroughputRecord
from sparseft.storage.record import claim_record, read_record

# The fields that belong to the compiled program of a batch size.
PROGRAM = ("micro_batch_size", "compile_hash")
# The fields that differ between the files of a cell. All others must be equal.
OWN = {"record", "batch_size", "seed", "repeat", *PROGRAM}


def main(*, records: list[Path], output: Path) -> None:
    """Join the measurements, and write the record.

    Args:
        records: the measurements of the batch sizes of one cell
        output: the measurement of the cell
    """
    claim_record(output, "throughput", records)
    contents = [read_record(path) for path in records]
    common = {name: value for name, value in contents[0].items() if name not in OWN}
    for path, content in zip(records, contents, strict=True):
        names = (common.keys() | content.keys()) - OWN
        if differing := sorted(name for name in names if common.get(name) != content.get(name)):
            raise InputError(
                f"{path}: {', '.join(differing)} differ from those of {records[0]}", "remove both, and measure again"
            )
    repeats = {
        (content["batch_size"], content["seed"]): content["repeat"] | {name: content[name] for name in PROGRAM}
        for content in contents
    }
    sizes = sorted({size for size, _ in repeats})
    seeds = sorted({seed for _, seed in repeats})
    if len(repeats) != len(records) or len(records) != len(sizes) * len(seeds):
        raise InputError(
            f"{records[0].parent.parent}: not {len(seeds)} repeats of every batch size", "measure them again"
        )
    batches = [
        {"batch_size": size, "status": MEASURED, "reason": None, "repeats": [repeats[size, seed] for seed in seeds]}
        for size in sizes
    ]
    # A CS-3 has no limit that a study could set.
    common |= {"memory_limit_kind": None, "memory_limit_bytes": None}
    write(output, ThroughputRecord(**common, repeats=len(seeds), batch_sizes=sizes, batches=batches))


if __name__ == "__main__":
    run(main)
