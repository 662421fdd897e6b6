"""Run a training in several processes, with torchrun."""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from sparseft.common.errors import InputError


def share(number: int) -> int:
    """Run this program in `number` processes that share a training, and return its exit code: 2 if one fails with an
    error, which it has printed. Raises InputError if one ends in another way."""
    # torchrun itself would print a log and a traceback of its own after the error of the program.
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # NCCL would choose by the size of a message, and its algorithms add in different orders.
    os.environ.setdefault("NCCL_ALGO", "Ring")
    try:
        main(["--standalone", f"--nproc_per_node={number}", *sys.argv])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode != 2:
            what = f"process {rank} of the training: {failure.message}"
            raise InputError(what, "read the lines above, and check that memory was enough") from None
        return 2
    return 0
