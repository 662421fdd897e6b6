"""Export the runs of a study to TensorBoard.

The stage is in sparseft/stages/export_study.py."""

from sparseft.common.command import run
from sparseft.stages import export_study

if __name__ == "__main__":
    run(export_study.run)
