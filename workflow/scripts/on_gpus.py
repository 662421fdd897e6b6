"""Run a command on GPUs of its own. It waits until they are free, and the command sees no others.

    on_gpus.py --gpus 1 -- python workflow/scripts/train.py FLAGS

The command replaces this process. The GPUs are free again when it, and every process that it started, has ended.
"""

import argparse
import os

from sparseft.errors import InputError, run_script
from sparseft.planning.devices import take, visible_gpus


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True, help="number of GPUs that the command may use")
    parser.add_argument("command", nargs="+", help="the command to run, after --")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.gpus < 1:
        raise InputError(f"--gpus {args.gpus}", "give a number from 1")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(args.gpus, visible_gpus()))
    os.execvp(args.command[0], args.command)


if __name__ == "__main__":
    run_script(main)
