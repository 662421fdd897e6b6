"""Check that engines compute with an exported run what transformers does, and measure them beside the dense model.

The stage is in sparseft/stages/check_engines.py."""

from sparseft.common.command import run
from sparseft.stages import check_engines

if __name__ == "__main__":
    run(check_engines.run)
