"""Join the measurements of a cell's batch sizes into the one file that analyze_throughput.py reads.

    join_measurements.py --records results/throughput/CELL/*/measurement.json --output results/throughput/CELL.json

measure_cerebras.py wrote the files. Measurements that were made under different conditions are refused.
"""

import argparse
from pathlib import Path

from sparseft.errors import run_script
from sparseft.evaluation.measurements import join
from sparseft.records.record_file import write
from sparseft.records.throughput_record import ThroughputRecord
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, help="the measurements of the batch sizes of one cell"
    )
    parser.add_argument("--output", type=Path, required=True, help="the measurement of the cell")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    check_apart([args.output], args.records)
    check_record(args.output, "throughput")
    hold(args.output)
    write(args.output, ThroughputRecord(**join(args.records)))
    return 0


if __name__ == "__main__":
    run_script(main)
