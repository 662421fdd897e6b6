"""Compute the pruning masks of one or several methods, all sparsities of a method in one pass.

The stage is in sparseft/stages/compute_masks.py."""

from sparseft.common.command import run
from sparseft.stages import compute_masks

if __name__ == "__main__":
    run(compute_masks.run)
