"""Estimate what a study takes before anything runs: its runs and jobs, disk by kind, memory by kind of job.

    estimate.py --configfile config/sweep.yaml

Reads the configuration as snakemake does, config/config.yaml below what is given, and prints; needs no model on the disk.
"""

import argparse
from pathlib import Path

import yaml
from snakemake.utils import update_config
from sparseft.config import Config, parse_section
from sparseft.errors import InputError, run_script
from sparseft.estimate import report

DEFAULT = Path(__file__).parents[2] / "config/config.yaml"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="laid over the default, in this order")
    return parser.parse_args()


def read_configuration(files: list[Path]) -> Config:
    """The study of the default configuration with `files` laid over it."""
    content: dict = {}
    for file in (DEFAULT, *files):
        try:
            section = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{file}: not YAML ({error})", "correct it") from None
        if not isinstance(section, dict):
            raise InputError(f"{file}: holds no sections", "write a study as config/config.yaml is written")
        update_config(content, section)
    return parse_section(Config, content, "configuration")


def main() -> int:
    print(report(read_configuration(parse_args().configfile)))
    return 0


if __name__ == "__main__":
    run_script(main)
