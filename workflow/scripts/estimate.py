"""Estimate what a study needs before anything runs: its disk space, and the memory of its jobs.

The stage is in sparseft/stages/estimate.py."""

from sparseft.command import run
from sparseft.stages import estimate

if __name__ == "__main__":
    run(estimate.run)
