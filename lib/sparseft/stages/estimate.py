"""Estimate what a study needs before anything runs: its disk space, and the memory of its jobs.

    estimate.py --configfile config/sweep.yaml

Reads the configuration as Snakemake does, laid over config/config.yaml, and prints the estimate. The models need not be
on the disk.
"""

from pathlib import Path

from sparseft.language_model.gpus import smallest_gpu
from sparseft.planning.estimate import report
from sparseft.study.configfiles import read_configuration

# Raise it when the results change.
VERSION = 1


def run(*, configfile: tuple[Path, ...] = (), config: tuple[str, ...] = ()) -> None:
    """Print the estimate.

    Args:
        configfile: configuration files, laid over config/config.yaml in this order
        config: KEY=VALUE, laid over the files, with the value in YAML
    """
    print(report(read_configuration(configfile, config), smallest_gpu()))
