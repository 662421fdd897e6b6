"""Turn the measurements of the stage `throughput` into one table and its figures.

The stage is in sparseft/stages/analyze_throughput.py."""

from sparseft.common.command import run
from sparseft.stages import analyze_throughput

if __name__ == "__main__":
    run(analyze_throughput.run)
