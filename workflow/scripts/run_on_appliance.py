"""Run a training on a Cerebras appliance: one at a time, with its failures classified and its job cancelled at the end.

    run_on_appliance.py --name RUN_ID --log FILE [--lock FILE] [--job_labels NAME=VALUE] -- \\
        .venv-cerebras/bin/python workflow/scripts/train_cerebras.py FLAGS 2> FILE

A command that loses its connection to the appliance is run again, twice. --job_labels goes to its end.
"""

from pathlib import Path

from sparseft.axes.grid import ResultPaths
from sparseft.common.command import run
from sparseft.training.trainers import appliance
from sparseft.training.trainers.backends.cerebras import JobLabel

_STOP = Path(ResultPaths().stop)


def main(
    *command: str,
    name: str,
    log: Path,
    lock: Path | None = None,
    stop: Path = _STOP,
    job_labels: tuple[JobLabel, ...] = (),
) -> int:
    """Run the command, and return the exit code.

    Args:
        command: the command to run, after --
        name: name of the job in messages
        log: the file that stderr goes to, which is read after a failure
        lock: file that is locked while the command runs
        stop: file that is written if the disk or its quota is full
        job_labels: labels of the job on the appliance; one is added
    """
    return appliance.run([*command, "--job_labels", *job_labels], name, log, stop=stop, lock=lock)


if __name__ == "__main__":
    run(main)
