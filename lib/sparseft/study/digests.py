"""Compute digests of the code that a script runs from this library.

Snakemake does not see an edit of a library, and it treats a touched or freshly cloned script as changed. So the rules
put a digest of the code into `params`. It covers the script and exactly the modules that it imports. An edit reruns
only the jobs that run the edited code.

The words that only a reader sees are not code: comments, docstrings, and the descriptions of the configuration's and
the records' fields. Every other string is, error messages too, because run_on_appliance.py decides by what a trainer
printed.

Every architecture, importance, pattern, mode, built-in task and kind of task has a file of its own. A job's digest
covers only the files of the values that the job uses, and not the table that lists all values. So a new or an edited
value reruns only its own jobs.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sparseft.architectures import ARCHITECTURES
from sparseft.importances import IMPORTANCES
from sparseft.modes import MODES
from sparseft.patterns import PATTERNS
from sparseft.storage.atomic import write_json
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.reading import read_json
from sparseft.tasks import BY_NAME, KINDS

PACKAGE = "sparseft"
# Folder -> the names of the values in it. Of the backends, every file counts for every job.
AXES = {
    "architectures": frozenset(architecture.name for architecture in ARCHITECTURES),
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
    """Hold the sha256 of the code of a file, and the package's files that run when it is imported."""

    code: str
    imports: frozenset[Path]


class Code:
    """Know the code of the library in the folder `lib`, as it is when it is first asked for.

    record: a JSON file that keeps what was read of the library and its scripts, so that the next plan parses only what
        was edited since; None keeps nothing"""

    def __init__(self, lib: Path, record: Path | None = None) -> None:
        self._lib = lib
        # Dotted name -> its file, in which a package is `.__init__`.
        self._files = {".".join(file.relative_to(lib).with_suffix("").parts): file for file in lib.rglob("*.py")}
        # The file of each axis' table -> the files of its values.
        self._tables = {
            self._files[f"{PACKAGE}.{folder}.__init__"]: {
                name: self._files[f"{PACKAGE}.{folder}.{name}"] for name in names
            }
            for folder, names in AXES.items()
        }
        self._module, self._imported = cache(self._read_module), cache(self.imported_modules)
        self._digest = cache(self.digest)
        # What is kept depends on this file too.
        self._key = sha256(Path(__file__))
        kind = dict[str, tuple[str, list[str]]]
        self._read = read_json(record, f"delete {record}", kind) if record and record.exists() else {}
        if record:
            now = dict(map(self._read_file, [*self._files.values(), *lib.parent.glob("workflow/scripts/*.py")]))
            if now != self._read:
                write_json(record, now)
            self._read = now

    def of_job(self, script: Path, values: Iterable[str]) -> str:
        """Return the digest of a script for a job that uses these values of the axes, from `targets.used_values`."""
        tables = [table for table in self._imported(script) if table in self._tables]
        files = [self._tables[table][name] for table in tables for name in sorted(self._tables[table].keys() & values)]
        return sha256_of_text("".join(map(self._digest, (script, *files))))

    def digest(self, file: Path, has_values: bool = False) -> str:
        """Return the sha256 of the code of a file and of the modules of the library that it imports, directly or not.

        The table of an axis imports every value. Both count only if the digest `has_values`."""
        digest = hashlib.sha256(self._module(file).code.encode())
        for module in self._imported(file, has_values):
            if has_values or module not in self._tables:
                name = module.relative_to(self._lib).as_posix()
                digest.update(f"\n{name}\n{self._module(module).code}".encode())
        return digest.hexdigest()

    def imported_modules(self, file: Path, has_values: bool = False) -> list[Path]:
        """Return the package's files that a file imports, directly or not, sorted. Each package's __init__ is among
        them.

        The values that a table imports are among them only if the list `has_values`."""
        modules: set[Path] = set()
        queue = [file]
        while queue:
            importing = queue.pop()
            new = self._module(importing).imports - modules
            if not has_values:
                new -= set(self._tables.get(importing, {}).values())
            modules |= new
            queue += new
        return sorted(modules)

    def _read_module(self, file: Path) -> Module:
        """Return what a file of the package or a script holds."""
        _, (code, names) = self._read_file(file)
        # Importing a module runs each of its packages, and `from a import b` may name a module a.b.
        parents = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
        found = (self._files.get(end) for name in parents for end in (name, f"{name}.__init__"))
        return Module(code, frozenset(filter(None, found)))

    def _read_file(self, file: Path) -> tuple[str, list]:
        """Return a digest of a file, with the sha256 of its code and the package's names that it imports."""
        source = file.read_bytes()
        key = hashlib.sha256(self._key.encode() + source).hexdigest()
        if key in self._read:
            return key, self._read[key]
        code, names = read_code(source)
        return key, [hashlib.sha256(code).hexdigest(), sorted(names)]


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
