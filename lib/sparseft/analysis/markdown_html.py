"""Turn the Markdown documents of the analysis into HTML.

Data in a document, such as the name of a device, stays text. HTML, links and images are not interpreted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup, escape

LONG = 12  # rows; a longer table is folded
WIDE = 40  # characters; a longer text is broken into lines


@dataclass(frozen=True)
class PageSection:
    """Hold a section of a document: its title, the identifier for links, and its HTML."""

    title: str
    id: str
    html: Markup


def sections(text: str, shift: int = 0) -> list[PageSection]:
    """Return the sections of a document. The part before the first "##" has an empty title.

    The document's own title is left out. `shift` is added to the level of every heading in a section."""
    parser = _parser()
    parts: list[tuple[str, list[Token]]] = [("", [])]
    tokens = parser.parse(text)
    for number, token in enumerate(tokens):
        level = _level(tokens, number)
        if level == 1:
            continue
        if level == 2:
            if token.type == "inline":
                parts.append((token.content, []))
            continue
        if level is not None and token.type != "inline":
            token.tag = f"h{level + shift}"
        parts[-1][1].append(token)
    return [
        PageSection(title, _identifier(title), Markup(_render(parser, title, part))) for title, part in parts if part
    ]


def _parser() -> MarkdownIt:
    """Return a parser of plain text, lists, headings, code and tables."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "html_block", "html_inline", "reference"])
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    return parser


def _level(tokens: Sequence[Token], number: int) -> int | None:
    """Return the level of the heading that a token belongs to; None if it belongs to none."""
    token = tokens[number]
    if token.type in ("heading_open", "heading_close"):
        return int(token.tag[1])
    previous = tokens[number - 1]
    # The text of a heading follows its opening.
    return int(previous.tag[1]) if previous.type == "heading_open" else None


def _render(parser: MarkdownIt, title: str, tokens: list[Token]) -> str:
    """Return the HTML of one section. The caption of a table is the heading above it."""
    heading = title
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[number + 1].content
        if token.type == "table_open":
            token.meta = {"caption": heading or "Table", "rows": _rows(tokens[number:])}
        if token.type == "td_open" and len(tokens[number + 1].content) > WIDE:
            token.attrSet("class", "wide")
    return parser.renderer.render(tokens, parser.options, {})


def _rows(tokens: Sequence[Token]) -> int:
    """Return the number of rows, without the header, of the table that the tokens begin with."""
    count = -1
    for token in tokens:
        count += token.type == "tr_open"
        if token.type == "table_close":
            break
    return count


def _table_open(
    renderer: RendererHTML, tokens: Sequence[Token], number: int, options: OptionsDict, environment: EnvType
) -> str:
    """Return the start of a table in a box with its own scroll bar."""
    rows = tokens[number].meta["rows"]
    name = escape(tokens[number].meta["caption"])
    box = f'<div class="scroll tall" tabindex="0" role="region" aria-label="{name}"><table><caption>{name}</caption>\n'
    if rows <= LONG:
        return box
    return f'<details><summary>{name} <span class="count">{rows} rows</span></summary>\n{box}'


def _table_close(
    renderer: RendererHTML, tokens: Sequence[Token], number: int, options: OptionsDict, environment: EnvType
) -> str:
    """Return the end of what _table_open began."""
    opening = next(token for token in reversed(tokens[:number]) if token.type == "table_open")
    return "</table></div>\n" + ("</details>\n" if opening.meta["rows"] > LONG else "")


def _identifier(title: str) -> str:
    """Return the identifier of a section, for links."""
    return "-".join(re.findall("[a-z0-9]+", title.lower())) or "start"
