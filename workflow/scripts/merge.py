"""Merge an adapter or trained weights into their pruned base: W' = (W + alpha/r B A) * M.

The stage is in sparseft/stages/merge.py."""

from sparseft.common.command import run
from sparseft.stages import merge

if __name__ == "__main__":
    run(merge.run)
