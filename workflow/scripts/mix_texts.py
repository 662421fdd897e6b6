"""Mix windows of several texts, on which importances calibrate.

The stage is in sparseft/stages/mix_texts.py."""

from sparseft.common.command import run
from sparseft.stages import mix_texts

if __name__ == "__main__":
    run(mix_texts.run)
