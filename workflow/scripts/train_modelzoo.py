"""Train the adapter of one run with Cerebras ModelZoo's Trainer.

The stage is in sparseft/stages/train_modelzoo.py."""

from sparseft.common.command import run
from sparseft.stages import train_modelzoo

if __name__ == "__main__":
    run(train_modelzoo.run)
