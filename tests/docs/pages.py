"""The pages that a user reads, and what stands in their blocks of code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, groupby, takewhile
from pathlib import Path

import yaml
from snakemake.utils import update_config

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "benchmarks/results/README.md", "studies/published/README.md")
PAGES = sorted([*(ROOT / name for name in OUTSIDE), *(ROOT / "docs").rglob("*.md")])
SHELL = ("", "bash", "sh", "shell", "console")
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
REDIRECTIONS = (">", ">>", "2>", "2>&1", "|", "&")


@dataclass(frozen=True)
class Block:
    """One block of code: its language, its title and the text before it."""

    language: str
    title: str
    text: str
    before: str


def blocks(page: Path) -> Iterator[Block]:
    """Return the blocks of code of a page."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        language, _, options = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', options)
        yield Block(language, title[1] if title else "", match["text"], text[: match.start()])


def configurations(page: Path) -> dict[str, dict]:
    """Return the content of the YAML files that a page shows, by name; blocks of one name are laid over one another.

    A file's name is its block's title, or else the last `NAME.yaml` before the block, or else its number. A block that
    begins with a space is a part of a file, and is left out."""
    shown: dict[str, dict] = {}
    for number, block in enumerate(blocks(page)):
        named = re.findall(r"`([\w.-]+\.yaml)`", block.before)
        name = block.title or (named[-1] if named else f"block {number}")
        if block.language == "yaml" and not block.text.startswith(" "):
            update_config(shown.setdefault(name, {}), yaml.safe_load(block.text))
    return shown


def section(page: str, heading: str) -> str:
    """Return the text of a page below a heading, up to the next one of its level."""
    return (ROOT / "docs" / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every line of the tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def files(page: Path) -> dict[str, dict]:
    """Return the YAML files that the commands of a page may read: its own, and those of the other pages."""
    found: dict[str, dict] = {}
    for each in (*PAGES, page):
        found |= configurations(each)
    return found


def commands(page: Path) -> list[list[str]]:
    """Return the project's own commands on a page, each as a list of words without its assignments and redirections."""
    found = []
    for block in blocks(page):
        if block.language in SHELL:
            for line in block.text.replace("\\\n", " ").splitlines():
                found += [words for words in _simple_commands(line) if _is_ours(words)]
    # An ellipsis stands for a command that is shown elsewhere.
    return [words for words in found if "..." not in words]


def _is_ours(words: list[str]) -> bool:
    """Return whether a command is make, Snakemake, a program of the project, or one of its environments."""
    if not words:
        return False
    programs = [word for word in words if word.startswith(("workflow/scripts/", "docs/generate"))]
    return words[0] in ("make", "snakemake") or ".venv" in words[0] or bool(programs)


def _simple_commands(line: str) -> list[list[str]]:
    """Return the commands of a line that are joined by `&&`, without the assignments before each and the redirections
    after it. A line that is not shell has none."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:
        return []
    parts = [list(part) for is_end, part in groupby(words, ("&&", ";").__contains__) if not is_end]
    begun = [dropwhile(ASSIGNMENT.fullmatch, part) for part in parts]
    return [list(takewhile(lambda word: word not in REDIRECTIONS, part)) for part in begun]
