"""Tables in Markdown."""

from collections.abc import Iterable


def markdown_table(header: list[str], rows: Iterable[Iterable[object]]) -> str:
    """A pipe table; a cell's own pipes are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
