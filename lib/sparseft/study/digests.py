"""Compute digests of the code that a script runs from this library.

Snakemake does not see an edit of a library, and it treats a touched or freshly cloned script as changed. So the rules put a
digest of the code into `params`. It covers the script and exactly the modules that it imports. An edit reruns only the jobs
that run the edited code.

The digest covers the syntax tree, without the words on which no result depends: comments, formatting, docstrings, the help
texts of argparse, and the descriptions of pydantic's fields. Every other string counts as code.
Error messages count too, because run_on_appliance.py decides by what a trainer printed.

Every importance, every pattern, every built-in task and every kind of task has a file of its own. A job's digest covers only the files of the
values that the job uses, and not the table that lists all values. So a new or an edited value reruns only its own jobs.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from sparseft.importances import IMPORTANCES
from sparseft.methods import get_method
from sparseft.patterns import PATTERNS
from sparseft.study.config import Config
from sparseft.tasks import BY_NAME, KINDS, file_of_kind

PACKAGE = "sparseft"
# Folder -> the names of the values in it. Of the other axes, architectures and backends, every file counts for every job.
AXES = {
    "importances": frozenset(importance.name for importance in IMPORTANCES),
    "patterns": frozenset(pattern.name for pattern in PATTERNS),
    "tasks": frozenset(BY_NAME) | frozenset(map(file_of_kind, KINDS)),
}

_PARSER_WORDS = frozenset({"description", "epilog"})
_GROUP_WORDS = frozenset({"title", "description"})
# Function -> its keywords whose text only a reader sees.
WORDS = {
    "ArgumentParser": _PARSER_WORDS,
    "add_parser": _PARSER_WORDS | {"help"},
    "add_subparsers": _GROUP_WORDS | {"help", "metavar"},
    "add_argument_group": _GROUP_WORDS,
    "add_argument": frozenset({"help", "metavar"}),
    "Field": frozenset({"description", "title", "examples"}),
}
# Functions whose texts without a keyword only a reader sees: the fields of the records.
FIELDS = frozenset({"setting", "measurement", "provenance"})
# Such a keyword is left out if it consists only of these expressions. If it calls a function, it counts as code.
_TEXT = (
    ast.Constant,
    ast.JoinedStr,
    ast.FormattedValue,
    ast.Name,
    ast.Attribute,
    ast.List,
    ast.Tuple,
    ast.expr_context,
)


def code_digest(script: Path, lib: Path, without: tuple[str, ...] = (), values: frozenset[str] | None = None) -> str:
    """Return the sha256 of `script` and of the modules under `lib`/sparseft that it imports, directly or not.

    without: modules that this use of the script never imports, such as "sparseft.pruning.calibration"
    values: the values of the axes that the job uses, from `used_values`; None means all"""
    digest = hashlib.sha256(read_code(script.read_bytes()).canonical)
    tables = _tables(lib)
    for module, source in sorted(_imported_sources(script, lib, without, values).items()):
        if values is None or module not in tables:
            name = module.relative_to(lib).as_posix()
            digest.update(f"\n{name}\n".encode() + read_code(source).canonical)
    return digest.hexdigest()


def job_digest(
    script: Path,
    lib: Path,
    config: Config,
    wildcards: Mapping[str, str],
    without: tuple[str, ...] = (),
    probes: bool = False,
) -> str:
    """Return the digest of the code of a job. Its wildcards name its task and its method.

    With `probes`, it also uses the probes of the study. A job without wildcards, such as the analysis, uses every task and method
    of the grid."""
    if wildcards:
        task = wildcards.get("task")
        values = used_values(task=config.task_file(task) if task else None, method=wildcards.get("method"))
        if probes:
            values |= frozenset(map(config.task_file, config.evaluated_tasks(task)))
    else:
        task_files = tuple(config.task_file(task) for task in config.grid.tasks)
        values = _grid_values(task_files, tuple(config.grid.methods))
    return _cached_digest(script, lib, without, values)


@cache
def _grid_values(task_files: tuple[str, ...], methods: tuple[str, ...]) -> frozenset[str]:
    """Return the names of all values that a grid uses."""
    values = [used_values(task=file) for file in task_files] + [used_values(method=method) for method in methods]
    return frozenset().union(*values)


@cache
def _cached_digest(script: Path, lib: Path, without: tuple[str, ...], values: frozenset[str]) -> str:
    """Return the digest of the code of a job. It is made of one digest per value, because many jobs share a value."""
    if len(values) < 2:
        return code_digest(script, lib, without, values)
    parts = sorted(_cached_digest(script, lib, without, frozenset([value])) for value in values)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def used_values(*, task: str | None = None, method: str | None = None) -> frozenset[str]:
    """Return the names of the values that a job uses. `task` is the name of the file that describes its task."""
    names = [task] if task else []
    if method:
        names += [value.name for value in (get_method(method).pattern, *get_method(method).importances)]
    return frozenset(names)


def imported_modules(
    script: Path, lib: Path, without: tuple[str, ...] = (), values: frozenset[str] | None = None
) -> list[Path]:
    """Return the package's files that `script` imports, directly or not, sorted. Each package's __init__ is among them.

    The table of an axis imports every value. With `values`, only the files of these are followed from a table."""
    return sorted(_imported_sources(script, lib, without, values))


def _imported_sources(
    script: Path, lib: Path, without: tuple[str, ...], values: frozenset[str] | None
) -> dict[Path, bytes]:
    """Return the sources of the files that `imported_modules` lists."""
    tables = _tables(lib)
    sources: dict[Path, bytes] = {}
    queue = [(script, script.read_bytes())]
    while queue:
        file, source = queue.pop()
        new = _imported_files(source, lib, without).difference(sources)
        if values is not None and file in tables:
            unused = tables[file] - values
            new = {module for module in new if module.parent != file.parent or module.stem not in unused}
        read = [(module, module.read_bytes()) for module in new]
        sources.update(read)
        queue += read
    return sources


def _tables(lib: Path) -> dict[Path, frozenset[str]]:
    """Return the file of each axis' table -> the names of its values. The file of a value has the value's name."""
    return {lib / PACKAGE / folder / "__init__.py": names for folder, names in AXES.items()}


@dataclass(frozen=True)
class Code:
    """Hold a source without the words that no result depends on, and the package's modules that it may import."""

    canonical: bytes
    imports: frozenset[str]


# Most scripts import the same modules, and parsing takes half of the time.
@cache
def read_code(source: bytes) -> Code:
    """Return the code of a source. `canonical` is the same for all sources with the same code, in Python 3.11 to 3.13.

    `ast.dump` is not used, because each version of Python adds fields, which are empty in most nodes, to its output."""
    tree = ast.parse(source)
    parts: list[str] = []
    _write(tree, parts)
    return Code("".join(parts).encode(), _imported_names(tree))


def _write(node: ast.AST, parts: list[str]) -> None:
    """Append a node as `Type(field=value,...)`. Fields without a value are left out, so each text means one tree."""
    parts.append(f"{type(node).__name__}(")
    if isinstance(node, ast.Constant):
        # Not `repr`, because its output depends on Python's version of Unicode.
        parts.append(f"{node.value!a})")
        return
    for name in node._fields:
        value = getattr(node, name, None)
        # Whether an expression is read or written (`ctx`) follows from its place in the tree.
        if value is None or name == "ctx":
            continue
        if isinstance(value, list):
            value = _relevant(node, name, value)
            if not value:
                continue
        parts.append(f"{name}=")
        _write_value(value, parts)
        parts.append(",")
    parts.append(")")


def _write_value(value: object, parts: list[str]) -> None:
    """Append the value of a field: a node, a list, a number or a name."""
    if isinstance(value, ast.AST):
        _write(value, parts)
    elif isinstance(value, list):
        parts.append("[")
        for element in value:
            _write_value(element, parts)
            parts.append(",")
        parts.append("]")
    else:
        parts.append(ascii(value))


def _relevant(node: ast.AST, name: str, values: list) -> list:
    """Return those of `values`, the list in field `name` of a node, that can change what the code computes."""
    if isinstance(node, ast.Call) and name == "keywords":
        words = WORDS.get(_function_name(node.func), ())
        return [keyword for keyword in values if keyword.arg not in words or not _is_text(keyword.value)]
    if isinstance(node, ast.Call) and name == "args" and _function_name(node.func) in FIELDS:
        return [value for value in values if not _is_text(value)]
    if isinstance(node, ast.JoinedStr):
        return _joined(values)
    if name in ("body", "orelse", "finalbody"):
        return [statement for statement in values if not _does_nothing(statement)]
    return values


def _does_nothing(statement: ast.stmt) -> bool:
    """Return whether a statement has no effect: a docstring, another string by itself, or `pass`."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    return isinstance(statement, ast.Pass)


def _function_name(function: ast.expr) -> str:
    """Return the last name of what is called: `add_argument` of `parser.add_argument`; empty if it has none."""
    return getattr(function, "attr", getattr(function, "id", ""))


def _is_text(value: ast.expr) -> bool:
    """Return whether an expression only joins texts, without a call that could have an effect."""
    return all(isinstance(node, _TEXT) for node in ast.walk(value))


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring constants joined, because Python's versions divide them differently."""
    parts: list[ast.expr] = []
    for constant, group in groupby(values, key=lambda value: isinstance(value, ast.Constant)):
        if not constant:
            parts += group
        elif text := "".join(part.value for part in group):
            parts.append(ast.Constant(text))
    return parts


@cache
def _imported_files(source: bytes, lib: Path, without: tuple[str, ...]) -> frozenset[Path]:
    """Return the package's files that the imports of one source run."""
    names = {name for name in read_code(source).imports if not name.startswith(without)}
    return frozenset(file for name in names for file in _files(name, lib))


def _imported_names(tree: ast.Module) -> frozenset[str]:
    """Return the dotted names of the package that a module imports; `from a import b` may name a module a.b."""
    names = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.partition(".")[0] == PACKAGE)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all statements in it. Expressions are skipped: they are nine of ten nodes, and do not import."""
    yield node
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, name, None)
        # The body of a lambda is not a list, but an expression.
        for statement in inner if isinstance(inner, list) else ():
            yield from _statements(statement)


# Most modules import the same names.
@cache
def _files(name: str, lib: Path) -> list[Path]:
    """Return the files that run when a dotted name is imported: each package's __init__, and the module."""
    parts = name.split(".")
    paths = [lib.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    paths.append(lib.joinpath(*parts).with_suffix(".py"))
    return [path for path in paths if path.is_file()]
