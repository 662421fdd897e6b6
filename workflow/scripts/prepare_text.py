"""Prepare a text on which importances calibrate, or that of the perplexity, from a file or from the hub.

The stage is in sparseft/stages/prepare_text.py."""

from sparseft.common.command import run
from sparseft.stages import prepare_text

if __name__ == "__main__":
    run(prepare_text.run)
