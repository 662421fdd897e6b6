"""Measure the speed and the memory of one cell's training against the batch size.

The stage is in sparseft/stages/measure_throughput.py."""

from sparseft.common.command import run
from sparseft.stages import measure_throughput

if __name__ == "__main__":
    run(measure_throughput.run)
