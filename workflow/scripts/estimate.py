"""Estimate what a study needs before anything runs: its runs and jobs, its disk space, and the memory of its jobs.

    estimate.py --configfile config/sweep.yaml

Reads the configuration as Snakemake does, laid over config/config.yaml, and prints the estimate. The models need not be on
the disk.
"""

import argparse
from pathlib import Path

from sparseft.errors import run_script
from sparseft.planning.estimate import report
from sparseft.study.configfiles import read_configuration


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        help="configuration files, laid over config/config.yaml in this order",
    )
    return parser.parse_args()


def main() -> int:
    """Print the estimate and return the exit code."""
    print(report(read_configuration(parse_args().configfile)))
    return 0


if __name__ == "__main__":
    run_script(main)
