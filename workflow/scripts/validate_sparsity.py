"""Prove that a checkpoint is sparse: compare every weight of every prunable layer with its mask.

The stage is in sparseft/stages/validate_sparsity.py."""

from sparseft.common.command import run
from sparseft.stages import validate_sparsity

if __name__ == "__main__":
    run(validate_sparsity.run)
