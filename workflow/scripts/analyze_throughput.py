"""Turn the measurements of the stage `throughput` into one table and its plots.

    analyze_throughput.py --records results/throughput/*.json \\
        --table results/analysis/throughput_vs_batch_size.csv --plots results/analysis/throughput_plots

The table has one row per cell and batch size. There is one figure per model and task, as PNG and SVG.
"""

import argparse
from pathlib import Path

from sparseft.analysis.figures import write_throughput_plots
from sparseft.analysis.leftovers import remove_leftovers
from sparseft.analysis.tables import write_csv
from sparseft.analysis.throughput import COLUMNS, throughput_table
from sparseft.errors import run_script
from sparseft.records.throughput_record import read_measurements
from sparseft.storage.atomic import atomic_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, help="the measurements, as measure_throughput.py writes them"
    )
    parser.add_argument("--table", type=Path, required=True, help="the .csv file")
    parser.add_argument("--plots", type=Path, required=True, help="folder of the figures")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    check_apart([args.table, args.plots], args.records)
    check_file(args.table, ",".join(COLUMNS))
    hold(args.table)
    table = throughput_table(read_measurements(args.records))
    with atomic_files(args.plots, "figures", "throughput plots") as folder:
        write_throughput_plots(table, folder)
        figures = {path.name for path in folder.iterdir()}
    remove_leftovers(args.plots, figures)
    write_csv(table, args.table)
    return 0


if __name__ == "__main__":
    run_script(main)
