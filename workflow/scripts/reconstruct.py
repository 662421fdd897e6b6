"""Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.

The stage is in sparseft/stages/reconstruct.py."""

from sparseft.common.command import run
from sparseft.stages import reconstruct

if __name__ == "__main__":
    run(reconstruct.run)
