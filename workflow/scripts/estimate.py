"""Estimate what a study needs before anything runs: its disk space, and the memory of its jobs.

It is in sparseft/study/planning/estimate.py."""

from sparseft.common.command import run
from sparseft.study.planning import estimate

if __name__ == "__main__":
    run(estimate.run)
