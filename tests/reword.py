"""Replace all text of a source that only readers see: comments, docstrings and field descriptions."""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

KEYWORDS = {"Field": ("description", "title"), "Parameter": ("help",)}
# Functions whose texts have no keyword.
FIELDS = ("setting", "measurement", "provenance")
# A name stands for a text that several descriptions share.
TEXT = ast.Constant | ast.JoinedStr | ast.Name
Edit = tuple[int, int, bytes, str]  # first byte, byte after the last, new text, kind


def reword_all(project: Path) -> Counter[str]:
    """Reword every script and every module of the library in a copied project. Return the number of edits by kind."""
    counts: Counter[str] = Counter()
    for file in [*project.glob("lib/**/*.py"), *project.glob("workflow/scripts/*.py")]:
        source = file.read_bytes()
        edits = list(words(source))
        counts.update(kind for _, _, _, kind in edits)
        file.write_bytes(edited(source, edits))
    return counts


def edited(source: bytes, edits: list[Edit]) -> bytes:
    """Return the source after the edits, which do not overlap."""
    for start, end, text, _ in sorted(edits, reverse=True):
        source = source[:start] + text + source[end:]
    return source


def words(source: bytes) -> Iterator[Edit]:
    """Yield an edit for each text in a source that only readers see."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    spans = []
    for node, kind in text_nodes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        spans.append((start, end))
        text = b'"""Say it in other words, 100 of them."""' if kind == "docstring" else b'"in other words"'
        yield start, end, text, kind
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            start = starts[token.start[0] - 1] + len(token.line[: token.start[1]].encode())
            if not any(first <= start < last for first, last in spans):
                yield start, start + len(token.string.encode()), b"# in other words", "comment"


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
