"""Sample a text from a model itself, to measure divergence on it or to calibrate on it.

The stage is in sparseft/stages/sample_text.py."""

from sparseft.common.command import run
from sparseft.stages import sample_text

if __name__ == "__main__":
    run(sample_text.run)
