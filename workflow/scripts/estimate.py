"""Estimate what a study needs before anything runs: its disk space, and the memory of its jobs.

It is in sparseft/estimate.py."""

from sparseft import estimate
from sparseft.command import run

if __name__ == "__main__":
    run(estimate.run)
