"""Join the measurements of a cell's batch sizes into the one file that analyze_throughput.py reads.

The stage is in sparseft/stages/join_measurements.py."""

from sparseft.common.command import run
from sparseft.stages import join_measurements

if __name__ == "__main__":
    run(join_measurements.run)
