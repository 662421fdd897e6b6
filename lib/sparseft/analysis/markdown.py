"""Tables and lists in Markdown."""

from collections.abc import Iterable


def markdown_table(header: list[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table; the pipes within its cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def bullets(sentences: Iterable[str]) -> str:
    """Return a list, a line per sentence."""
    return "".join(f"- {sentence}\n" for sentence in sentences)
