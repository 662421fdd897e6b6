"""Run a function in several processes that can talk to one another, as torchrun starts them."""

import os
import socket
from collections.abc import Callable

from torch import multiprocessing


def in_processes(number: int, function: Callable, *arguments: object) -> None:
    """Call function(*arguments) in `number` new processes. Raise what one of them raises."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    multiprocessing.spawn(_call, (number, port, function, arguments), nprocs=number)


def _call(rank: int, number: int, port: int, function: Callable, arguments: tuple) -> None:
    """Call the function with torchrun's variables in the environment."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(*arguments)
