"""Kill a script by SIGKILL before one of its renames, at which what it has written appears."""

import os
import signal

import forks


def is_killed_after(renames: int, script: str, flags: dict) -> bool:
    """Run a script, and kill it when it has renamed so many times. Return False if it finished before."""
    code, said = forks.call(_run, renames, script, flags)
    assert code in (0, -signal.SIGKILL), said
    return code != 0


def _run(renames: int, script: str, flags: dict) -> None:
    """Run a script that calls os.replace as often as `renames` says, and kills itself at the next one."""
    left, replace = iter(range(renames)), os.replace

    def count(*places: object) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*places)

    os.replace = count
    forks.script(script, *(word for name, value in flags.items() for word in (f"--{name}", value)))
