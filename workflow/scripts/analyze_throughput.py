"""Turn the measurements of the stage `throughput` into one table.

    analyze_throughput.py --records results/throughput/*.json --table results/analysis/throughput_vs_batch_size.csv

The table has one row per cell and batch size.
"""

from pathlib import Path

from sparseft.analysis.tables import write_csv
from sparseft.analysis.throughput import COLUMNS, throughput_table
from sparseft.command import run
from sparseft.records.throughput_record import read_measurements
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_file


def main(*, records: list[Path], table: Path) -> None:
    """Write the table.

    Args:
        records: the measurements, as measure_throughput.py writes them
        table: the .csv file
    """
    check_apart([table], records)
    check_file(table, ",".join(COLUMNS))
    hold(table)
    write_csv(throughput_table(read_measurements(records)), table)


if __name__ == "__main__":
    run(main)
