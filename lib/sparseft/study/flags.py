"""The flags of the scripts, as text for the rules' shell commands."""

from shlex import join


def flags(**values: object) -> str:
    """Return `--name value` for every value that is set, quoted for a shell. A list gives all of its values."""
    words: list[str] = []
    for name, value in values.items():
        listed = value if isinstance(value, list) else [value]
        if listed not in ([], [None]):
            words += [f"--{name}", *map(str, listed)]
    return join(words)


def launch(processes: int) -> list[str]:
    """Return the arguments with which python starts a training of one or several processes."""
    return [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
