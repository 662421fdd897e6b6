"""Digests of code: what a script runs of this library, by content.

Snakemake does not see edits in a library, and takes a touched or freshly cloned script for a changed one. A digest of
the script and of exactly the modules that it imports, in `params`, reruns what an edit concerns and nothing else.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "sparseft"


def code_digest(script: Path, lib: Path, without: tuple[str, ...] = ()) -> str:
    """sha256 over the contents of `script` and of the modules under `lib`/sparseft that it imports, transitively.

    `without`: modules, such as "sparseft.pruning.calibration", that this use of the script never comes to import."""
    digest = hashlib.sha256(script.read_bytes())
    for module in imported_modules(script, lib, without):
        digest.update(f"\n{module.relative_to(lib).as_posix()}\n".encode() + module.read_bytes())
    return digest.hexdigest()


def imported_modules(script: Path, lib: Path, without: tuple[str, ...] = ()) -> list[Path]:
    """The package's files that `script` imports, anywhere in it and in them; sorted, packages' __init__ included."""
    found: set[Path] = set()
    queue = [script]
    while queue:
        new = _imported_files(queue.pop().read_bytes(), lib, without) - found
        found |= new
        queue += new
    return sorted(found)


@cache  # every script imports much the same, and parsing is most of the time that this takes
def _imported_files(source: bytes, lib: Path, without: tuple[str, ...]) -> frozenset[Path]:
    """The files that the imports of one source run."""
    names = {name for name in _imported_names(source) if not name.startswith(without)}
    return frozenset(file for name in names for file in _files(name, lib))


@cache
def _imported_names(source: bytes) -> frozenset[str]:
    """Dotted names of the package that a source imports; `from a import b` may name a module a.b."""
    names = set()
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.partition(".")[0] == PACKAGE)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it, at any depth; no expression imports, and they are nine of ten nodes."""
    yield node
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, name, None)  # a lambda's body is an expression
        for statement in inner if isinstance(inner, list) else ():
            yield from _statements(statement)


def _files(name: str, lib: Path) -> list[Path]:
    """The files that importing a dotted name runs: each package's __init__, and the module."""
    parts = name.split(".")
    paths = [lib.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    paths.append(lib.joinpath(*parts).with_suffix(".py"))
    return [path for path in paths if path.is_file()]
