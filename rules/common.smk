# The grid, the constraints and the digests that all rules share; whatever computes is in lib/sparseft/.
import sys
from pathlib import Path

from sparseft import grid
from sparseft.config import parse_config
from sparseft.digests import code_digest
from sparseft.errors import InputError

ROOT = Path(workflow.basedir)
PYTHON = sys.executable  # the environment that runs Snakemake runs the scripts, activated or not

try:
    STUDY = parse_config(config)
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


wildcard_constraints:
    **grid.WILDCARDS,


def script(name):
    """The path of a script."""
    return str(ROOT / "workflow/scripts" / name)


def code(name):
    """The digest of a script and of what it imports: an edit reruns its rule, a touch does not."""
    return code_digest(ROOT / "workflow/scripts" / name, ROOT / "lib")


def flags(**values):
    """--name value for every value that is set, for `shell:`."""
    pairs = [(f"--{name}", str(value)) for name, value in values.items() if value is not None]
    return [part for pair in pairs for part in pair]
