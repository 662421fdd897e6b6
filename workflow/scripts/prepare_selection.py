"""Choose a task's selection rows, on which a study compares its trainings. prepare_task.py must have prepared the task.

The stage is in sparseft/stages/prepare_selection.py."""

from sparseft.common.command import run
from sparseft.stages import prepare_selection

if __name__ == "__main__":
    run(prepare_selection.run)
