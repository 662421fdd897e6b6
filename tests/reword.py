"""Replace all text of a source that only readers see: comments, docstrings and field descriptions."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

KEYWORDS = {"Field": ("description", "title"), "Parameter": ("help",)}
# Functions whose texts have no keyword.
FIELDS = ("setting", "measurement", "provenance")
# A name stands for a text that several descriptions share.
TEXT = ast.Constant | ast.JoinedStr | ast.Name


def reword_all(project: Path) -> Counter[str]:
    """Reword every script and every module of the library in a copied project, in another layout and without comments.

    Return the number of reworded texts by kind."""
    counts: Counter[str] = Counter()
    for file in [*project.glob("lib/**/*.py"), *project.glob("workflow/scripts/*.py")]:
        tree = ast.parse(file.read_bytes())
        for node, kind in list(text_nodes(tree)):
            counts[kind] += 1
            other = ast.Constant("Say it in other words.")
            # An expression is known by its place in the tree.
            node.__class__, node.__dict__ = other.__class__, node.__dict__ | other.__dict__
        file.write_text(ast.unparse(tree))
    return counts


def text_nodes(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """Yield the docstrings and descriptions of a module, each with its kind."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings.add(node.body[0])
            yield node.body[0].value, "docstring"
        elif (
            node not in docstrings
            and isinstance(node, ast.Expr)
            and isinstance(getattr(node.value, "value", None), str)
        ):
            yield node.value, "description"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS.get(name, ()) and isinstance(keyword.value, TEXT):
                    yield keyword.value, f"{name} {keyword.arg}"
            yield from ((text, name) for text in node.args if name in FIELDS and isinstance(text, ast.Constant))
