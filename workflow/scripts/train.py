"""Train one run on the pruned weights: an adapter, or in a full_ mode the kept weights themselves.

The stage is in sparseft/stages/train.py."""

from sparseft.common.command import run
from sparseft.stages import train

if __name__ == "__main__":
    run(train.run)
