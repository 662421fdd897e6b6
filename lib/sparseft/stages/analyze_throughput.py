"""Turn the measurements of the stage `throughput` into one table and its figures.

    analyze_throughput.py --records results/throughput/*.json \
        --table results/analysis/throughput_vs_batch_size.csv --plots results/analysis/throughput_plots

The table has one row per cell and batch size.
"""

from pathlib import Path

from sparseft.evaluation.throughput_record import read_measurements
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.outputs import claim

# Raise it when the results change.
VERSION = 1


def run(*, records: list[Path], table: Path, plots: Path) -> None:
    """Write the table and the figures.

    Args:
        records: the measurements, as measure_throughput.py writes them
        table: the .csv file
        plots: the folder of the figures
    """
    from sparseft.analysis.figures import write_throughput_figures
    from sparseft.analysis.tables import write_csv
    from sparseft.analysis.throughput import COLUMNS, throughput_table

    header = ",".join(COLUMNS)
    for output in (table, plots):
        claim(output, table, header, records)
    frame = throughput_table(read_measurements(records))
    with atomic_folder(plots, table.absolute(), header) as folder:
        write_throughput_figures(folder, frame)
    write_csv(frame, table)
