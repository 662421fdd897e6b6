"""Run a command on GPUs of its own. It waits until they are free, and the command sees no others.

    on_gpus.py --gpus 1 -- python workflow/scripts/train.py FLAGS

The command replaces this process. The GPUs are free again when it, and every process that it started, has ended.
"""

import os

from pydantic import PositiveInt
from sparseft.command import run
from sparseft.language_model.gpus import take, visible_gpus


def main(program: str, /, *arguments: str, gpus: PositiveInt) -> None:
    """Wait for the GPUs and run the command.

    Args:
        program: the program to run, after --
        arguments: its arguments
        gpus: number of GPUs that the command may use
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(gpus, visible_gpus()))
    os.execvp(program, [program, *arguments])


if __name__ == "__main__":
    run(main)
