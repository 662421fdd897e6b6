"""Compute digests of the code that a script runs from this library.

Snakemake does not see an edit of a library, and it treats a touched or freshly cloned script as changed. So the rules
put a digest of the code into `params`. It covers the script and exactly the modules that it imports. An edit reruns
only the jobs that run the edited code.

The words that only a reader sees are not code: comments, docstrings, and the descriptions of the configuration's and
the records' fields. Every other string is, error messages too, because run_on_appliance.py decides by what a trainer
printed.

Every importance, every pattern, every mode, every built-in task and every kind of task has a file of its own. A job's
digest covers only the files of the values that the job uses, and not the table that lists all values. So a new or an
edited value reruns only its own jobs.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sparseft.importances import IMPORTANCES
from sparseft.methods import get_method
from sparseft.modes import MODES, with_starts
from sparseft.patterns import PATTERNS
from sparseft.study.config import Config
from sparseft.tasks import BY_NAME, KINDS

PACKAGE = "sparseft"
# Folder -> the names of the values in it. Of the other axes, architectures and backends, every file counts for every
# job.
AXES = {
    "importances": frozenset(importance.name for importance in IMPORTANCES),
    "patterns": frozenset(pattern.name for pattern in PATTERNS),
    "modes": frozenset(mode.name for mode in MODES),
    "tasks": frozenset(BY_NAME) | frozenset(KINDS),
}
# Function -> its keywords whose text only a reader sees.
WORDS = {"Field": {"description", "title", "examples"}, "Parameter": {"help"}}
# Functions whose arguments without a keyword are such texts: the fields of the records.
FIELDS = {"setting", "measurement", "provenance"}


class Module(NamedTuple):
    """Hold the code of a file, and the package's files that run when it is imported."""

    text: bytes
    imports: frozenset[Path]


def code_digest(script: Path, lib: Path, values: frozenset[str] | None = None) -> str:
    """Return the sha256 of `script` and of the modules under `lib`/sparseft that it imports, directly or not.

    values: the values of the axes that the job uses, from `used_values`; None means all"""
    digest = hashlib.sha256(_module(script, lib).text)
    tables = _tables(lib)
    for module in imported_modules(script, lib, values):
        if values is None or module not in tables:
            name = module.relative_to(lib).as_posix()
            digest.update(f"\n{name}\n".encode() + _module(module, lib).text)
    return digest.hexdigest()


def job_digest(script: Path, lib: Path, config: Config, wildcards: Mapping[str, str], probes: bool = False) -> str:
    """Return the digest of the code of a job. Its wildcards name its task, its method and its mode.

    With `probes`, it also uses the probes of the study. A job without wildcards, such as the analysis, uses every task,
    method and mode of the grid."""
    task, method = wildcards.get("task"), wildcards.get("method")
    tasks = config.evaluated_tasks(task) if task and probes else [task] if task else []
    methods = [method] if method else []
    modes = [wildcards["mode"]] if "mode" in wildcards else []
    if not wildcards:
        tasks, methods, modes = config.grid.tasks, config.grid.methods, with_starts(config.grid.modes)
    # A task that is not built in has the file of its kind.
    files = [config.task_data(name).task_kind or name for name in tasks]
    values = used_values(*files, *modes, methods=methods)
    # One digest per value, because many jobs share a value.
    parts = [_value_digest(script, lib, frozenset([value])) for value in sorted(values)]
    return hashlib.sha256("".join(parts or [_value_digest(script, lib, frozenset())]).encode()).hexdigest()


_value_digest = cache(code_digest)


def used_values(*names_of_files: str, methods: Sequence[str] = ()) -> frozenset[str]:
    """Return the names of the values that a job uses. A task and a mode are named by the files that describe them."""
    names = list(names_of_files)
    for method in map(get_method, methods):
        names += [method.pattern.name, *(importance.name for importance in method.importances)]
    return frozenset(names)


def imported_modules(script: Path, lib: Path, values: frozenset[str] | None = None) -> list[Path]:
    """Return the package's files that `script` imports, directly or not, sorted. Each package's __init__ is among them.

    The table of an axis imports every value. With `values`, only the files of these are followed from a table."""
    tables = _tables(lib)
    modules: set[Path] = set()
    queue = [script]
    while queue:
        file = queue.pop()
        new = _module(file, lib).imports - modules
        if values is not None and file in tables:
            new -= {file.with_name(f"{name}.py") for name in tables[file] - values}
        modules |= new
        queue += new
    return sorted(modules)


def _tables(lib: Path) -> dict[Path, frozenset[str]]:
    """Return the file of each axis' table -> the names of its values. The file of a value has the value's name."""
    return {lib / PACKAGE / folder / "__init__.py": names for folder, names in AXES.items()}


def _module(file: Path, lib: Path) -> Module:
    """Return what a file of the package or a script holds, as it is now."""
    return _read_module(file, lib, file.stat().st_mtime_ns)


# Most scripts import the same modules, and parsing takes half of the time of a plan.
@cache
def _read_module(file: Path, lib: Path, changed: int) -> Module:
    """Return what a file holds that was last changed at `changed`."""
    text, names = read_code(file.read_bytes())
    return Module(text, frozenset(module for name in names for module in _files(name, lib)))


def read_code(source: bytes) -> tuple[bytes, frozenset[str]]:
    """Return the code of a source, and the package's names that it imports. The code is the same for all sources that
    differ only in layout and in what a reader sees."""
    tree = ast.parse(source)
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b` may name a module a.b.
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in WORDS.get(name, ())]
            node.args = [] if name in FIELDS else node.args
        elif isinstance(body := getattr(node, "body", None), list):
            # A text by itself is a docstring.
            body[:] = [
                statement
                for statement in body
                if not (isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str))
            ]
    names = frozenset(name for name in imports if name.partition(".")[0] == PACKAGE)
    return ast.unparse(tree).encode(), names


# Most modules import the same names.
@cache
def _files(name: str, lib: Path) -> list[Path]:
    """Return the files that run when a dotted name is imported: each package's __init__, and the module."""
    parts = name.split(".")
    paths = [lib.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [path for path in (*paths, lib.joinpath(*parts).with_suffix(".py")) if path.is_file()]
