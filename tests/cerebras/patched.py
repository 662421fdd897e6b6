"""train_cerebras.py after a piece of code: patched.py CODE FLAG..."""

import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/train_cerebras.py"

if __name__ == "__main__":
    exec(sys.argv[1])
    sys.argv[:] = [str(SCRIPT), *sys.argv[2:]]
    runpy.run_path(str(SCRIPT), run_name="__main__")
