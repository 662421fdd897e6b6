"""Write a run as a folder that can be given away: a stock Hugging Face checkpoint with a model card and hashes.

The stage is in sparseft/stages/export_run.py."""

from sparseft.common.command import run
from sparseft.stages import export_run

if __name__ == "__main__":
    run(export_run.run)
