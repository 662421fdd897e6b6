"""Run a training on a Cerebras appliance: one at a time, with its failures classified and its job cancelled at the end.

    run_on_appliance.py --name RUN_ID --log FILE [--lock FILE] [--attempt N] [--job_labels NAME=VALUE] -- \\
        .venv-cerebras/bin/python workflow/scripts/train_cerebras.py FLAGS 2> FILE

--job_labels goes to the end of the command. Exit codes: 0 it succeeded, 75 another attempt may help, 2 it cannot help.
"""

import argparse
from pathlib import Path

from sparseft.backends.appliance import EarlierFailures, run
from sparseft.errors import run_script
from sparseft.study.grid import ResultPaths


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of the job in messages")
    parser.add_argument(
        "--log", type=Path, required=True, help="the file that stderr goes to, which is read after a failure"
    )
    parser.add_argument("--lock", type=Path, help="file that is locked while the command runs")
    parser.add_argument(
        "--attempt", type=int, default=1, help="number of this attempt; the first forgets earlier failures"
    )
    parser.add_argument(
        "--stop",
        type=Path,
        default=Path(ResultPaths().stop),
        help="file that is written if the disk or its quota is full",
    )
    parser.add_argument("--job_labels", nargs="*", default=[], help="labels of the job on the appliance; one is added")
    parser.add_argument("command", nargs="+", help="the command to run, after --")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    earlier = EarlierFailures(args.log.with_suffix(".failed"), args.stop)
    command = [*args.command, "--job_labels", *args.job_labels]
    return run(command, args.name, args.log, earlier=earlier, lock=args.lock, attempt=args.attempt)


if __name__ == "__main__":
    run_script(main)
