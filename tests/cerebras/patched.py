"""A script after a piece of code: patched.py SCRIPT CODE FLAG..."""

import runpy
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"

if __name__ == "__main__":
    script = str(SCRIPTS / sys.argv[1])
    exec(sys.argv[2])
    sys.argv[:] = [script, *sys.argv[3:]]
    runpy.run_path(script, run_name="__main__")
