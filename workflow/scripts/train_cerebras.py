"""Train the adapter of one run on a Cerebras CS-3, or on cerebras-pytorch's CPU backend.

The stage is in sparseft/stages/train_cerebras.py."""

from sparseft.common.command import run
from sparseft.stages import train_cerebras

if __name__ == "__main__":
    run(train_cerebras.run)
