"""Measure the speed of one cell's training at one batch size on a Cerebras CS-3, or on cerebras-pytorch's CPU backend.

The stage is in sparseft/stages/measure_cerebras.py."""

from sparseft.common.command import run
from sparseft.stages import measure_cerebras

if __name__ == "__main__":
    run(measure_cerebras.run)
