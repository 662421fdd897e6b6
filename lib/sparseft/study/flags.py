"""The flags of the scripts: as text for the rules' shell commands, and the values that a script reads from them."""

from fractions import Fraction
from shlex import join

from sparseft.errors import InputError
from sparseft.study.section import Section


def flags(**values: object) -> str:
    """Return `--name value` for every value that is set, quoted for a shell.

    A list gives all of its values. The keys of a section `name` are the flags `--name.key`."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}={value}")
        elif isinstance(value, Section):
            words.append(flags(**{f"{name}.{key}": part for key, part in value}))
        else:
            listed = value if isinstance(value, list) else [value]
            if listed not in ([], [None]):
                words.append(join([f"--{name}", *map(str, listed)]))
    return " ".join(words)


def launch(processes: int) -> list[str]:
    """Return the arguments with which python starts a training of one or several processes."""
    return [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def whole_percent(text: str) -> int:
    """Return a fraction such as "0.5" as a percentage, exactly. Raises InputError if it is not a sparsity."""
    try:
        value = Fraction(text) * 100
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if value.denominator != 1 or not 0 <= value < 100:
        raise InputError(f"--sparsity {text}: not a sparsity", "give fractions from 0 up to 0.99 in whole percents")
    return int(value)
