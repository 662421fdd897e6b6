"""Prepare a task's examples: generate them, or take them from a folder or the hub.

The stage is in sparseft/stages/prepare_task.py."""

from sparseft.common.command import run
from sparseft.stages import prepare_task

if __name__ == "__main__":
    run(prepare_task.run)
