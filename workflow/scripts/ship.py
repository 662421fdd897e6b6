"""Measure the candidates of `snakemake ship` as they are served, choose one, and write it with its card.

The stage is in sparseft/stages/ship.py."""

from sparseft.common.command import run
from sparseft.stages import ship

if __name__ == "__main__":
    run(ship.run)
