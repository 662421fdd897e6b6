"""Join the measurements of a cell's batch sizes into the one file that analyze_throughput.py reads.

    join_measurements.py --records results/throughput/CELL/*/measurement.json --output results/throughput/CELL.json

measure_cerebras.py wrote the files. Measurements that were made under different conditions are refused.
"""

from pathlib import Path

from sparseft.command import run
from sparseft.evaluation.measurements import join
from sparseft.records.record_file import write
from sparseft.records.throughput_record import ThroughputRecord
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record


def main(*, records: list[Path], output: Path) -> None:
    """Join the measurements, and write the record.

    Args:
        records: the measurements of the batch sizes of one cell
        output: the measurement of the cell
    """
    check_apart([output], records)
    check_record(output, "throughput")
    hold(output)
    write(output, ThroughputRecord(**join(records)))


if __name__ == "__main__":
    run(main)
