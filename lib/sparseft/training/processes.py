"""Start a script in several processes that share a training. The flags are those of torchrun.

    python -m sparseft.training.processes --standalone --nproc_per_node=4 workflow/scripts/train.py FLAGS

torchrun itself would print a log and a traceback of its own after the error of the script.
"""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from sparseft.common.errors import InputError, end
from sparseft.models.language_model.gpus import take_requested


def start() -> int:
    """Run the processes, and return 2 if one fails with an error, which it has printed. Raises InputError if one ends
    in another way."""
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # NCCL would choose by the size of a message, and its algorithms add in different orders.
    os.environ.setdefault("NCCL_ALGO", "Ring")
    # The processes share the GPUs of this one.
    take_requested()
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode != 2:
            what = f"process {rank} of the training: {failure.message}"
            raise InputError(what, "read the lines above, and check that memory was enough") from None
        return 2
    return 0


if __name__ == "__main__":
    end(lambda: start)
