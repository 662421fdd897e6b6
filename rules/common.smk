# The grid, the constraints and the digests that all rules share; whatever computes is in lib/sparseft/.
import sys
from pathlib import Path
from shlex import quote

from sparseft import grid, targets
from sparseft.config import Config, parse_section, split_mdl
from sparseft.digests import code_digest
from sparseft.errors import InputError

ROOT = Path(workflow.basedir)


def refuse(error):
    """End with the one line of an InputError, before any job starts."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


try:
    STUDY = parse_section(Config, config, "configuration")
except InputError as error:
    refuse(error)


# The environment that runs Snakemake runs the scripts, activated or not, wherever the project lies; not in params,
# or a moved folder would run everything again.
# A prefix replaces Snakemake's own `set -euo pipefail`. With --sdm conda the rule's environment runs the scripts.
BIN = "" if workflow.deployment_settings.deployment_method else f"{Path(sys.executable).parent}:"
shell.prefix(
    f"set -euo pipefail; export PATH={quote(BIN)}$PATH PYTHONPATH={quote(str(ROOT / 'lib'))} "
    f"SCRIPTS={quote(str(ROOT / 'workflow/scripts'))} "
    f"CEREBRAS_PYTHON={quote(str(ROOT / STUDY.cerebras.python))}; "
)


wildcard_constraints:
    **grid.WILDCARDS,


def code(name, without=()):
    """The digest of a script and of what it imports: an edit reruns its rule, a touch does not."""
    return code_digest(ROOT / "workflow/scripts" / name, ROOT / "lib", without)


def manifest_if(check, *asked):
    """MANIFEST, if `check` has nothing against what is asked: before a job starts, which would first delete its outputs."""
    try:
        check(*asked)
    except InputError as error:
        refuse(error)
    return grid.MANIFEST


def flags(**values):
    """--name value for every value that is set, for `shell:`; a list gives all its values."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return [
        part for name, value in lists.items() if value not in ([], [None]) for part in (f"--{name}", *map(str, value))
    ]


def launch(processes):
    """How python starts a training: by itself, or several that share it."""
    return [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def local_model(source):
    """The files of a path: or mdl: source, so that a changed one is prepared again."""
    kind, _, place = source.partition(":")
    if kind == "mdl":
        file, folder = split_mdl(place)
        return [str(file), str(folder / "config.json")]
    return [f"{place}/config.json", *map(str, sorted(Path(place).glob("*.safetensors")))] if kind == "path" else []


def local_data(folder):
    """The files of a local task."""
    return [f"{folder}/{split}.jsonl" for split in ("train", "validation")] if folder else []
