"""Tables, lists and documents in Markdown. The names and texts in them may come from outside."""

import re
from collections.abc import Iterable

from sparseft.errors import one_line

_FENCE = re.compile(r"^(```)$", re.MULTILINE)
# The beginning of a tag, and the end of a link's or an image's text. A document links only to its own figures.
_ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|\](?=\((?!plots/))")
_ENTITIES = {"<": "&lt;", "]": "&#93;"}


def markdown_table(header: list[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table; the pipes within its cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def bullets(sentences: Iterable[str]) -> str:
    """Return a list, a line per sentence."""
    return "".join(f"- {one_line(sentence)}\n" for sentence in sentences)


def document(sections: Iterable[str]) -> str:
    """Return the document of all sections that are not empty. Outside blocks of code it has no HTML and no foreign link."""
    parts = _FENCE.split("\n".join(section for section in sections if section))
    # The parts at odd places are the fences, and every second part between them is code.
    for place in range(0, len(parts), 4):
        parts[place] = _ACTIVE.sub(lambda found: _ENTITIES[found[0]], parts[place])
    return "".join(parts)
