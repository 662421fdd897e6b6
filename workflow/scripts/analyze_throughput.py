"""Turn the measurements of the stage `throughput` into one table and its plots.

    analyze_throughput.py --records results/throughput/*.json \\
        --table results/analysis/throughput_vs_batch_size.csv --plots results/analysis/throughput_plots

The table has one row per cell and batch size. There is one figure per model and task, as PNG and SVG.
"""

from pathlib import Path

from sparseft.analysis.figures import write_throughput_plots
from sparseft.analysis.tables import write_csv
from sparseft.analysis.throughput import COLUMNS, throughput_table
from sparseft.command import run
from sparseft.records.throughput_record import read_measurements
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_file


def main(*, records: list[Path], table: Path, plots: Path) -> None:
    """Write the table and its figures.

    Args:
        records: the measurements, as measure_throughput.py writes them
        table: the .csv file
        plots: folder of the figures
    """
    check_apart([table, plots], records)
    check_file(table, ",".join(COLUMNS))
    hold(table)
    measured = throughput_table(read_measurements(records))
    with atomic_folder(plots, "figures") as folder:
        write_throughput_plots(measured, folder)
    write_csv(measured, table)


if __name__ == "__main__":
    run(main)
