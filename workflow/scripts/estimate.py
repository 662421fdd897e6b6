"""Estimate what a study takes before anything runs: its runs and jobs, disk by kind, memory by kind of job.

    estimate.py --configfile config/sweep.yaml

Reads the configuration as snakemake does, config/config.yaml below what is given, and prints; needs no model on the disk.
"""

import argparse
from pathlib import Path

from sparseft.errors import run_script
from sparseft.planning.estimate import report
from sparseft.study.configfiles import read_configuration


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="laid over the default, in this order")
    return parser.parse_args()


def main() -> int:
    print(report(read_configuration(parse_args().configfile)))
    return 0


if __name__ == "__main__":
    run_script(main)
