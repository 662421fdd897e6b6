"""A script after a piece of code: patched.py SCRIPT CODE FLAG..."""

import runpy
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def last_of_each(words: list[str]) -> list[str]:
    """Return the flags of a command line. Of a flag that is there twice, the last one counts."""
    flags: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            values = flags[word] = []
        else:
            values.append(word)
    return [word for flag, values in flags.items() for word in (flag, *values)]


if __name__ == "__main__":
    script = str(SCRIPTS / sys.argv[1])
    exec(sys.argv[2])
    sys.argv[:] = [script, *last_of_each(sys.argv[3:])]
    runpy.run_path(script, run_name="__main__")
