"""Write findings.txt: what the terminal shows at the end of a study, in at most 20 lines.

A study of one model and task shows its table and its headline. A larger study shows one headline after the other.
"""

from pathlib import Path

from sparseft.analysis.counts import count_runs
from sparseft.analysis.derived import Derived
from sparseft.analysis.experiments import places, results_table, title
from sparseft.analysis.findings import NO_CONCLUSION, headline, overlaps
from sparseft.analysis.judgement import Judged
from sparseft.analysis.records import Gap
from sparseft.storage.atomic import atomic_file

LINES = 20


def write_overview(path: Path, judged: list[Judged], gaps: list[Gap], derived: Derived, tolerance: float) -> None:
    """Write the overview to a file."""
    with atomic_file(path) as temporary:
        temporary.write_text(overview(judged, gaps, derived, tolerance), encoding="utf-8")


def overview(judged: list[Judged], gaps: list[Gap], derived: Derived, tolerance: float) -> str:
    """Return the table and the headline of a study, and the number of its runs."""
    parts = places(derived)
    counts = count_runs(judged, gaps)
    last = [*overlaps(derived.runs), f"{counts.runs_text}, {counts.text}"]
    room = LINES - len(last)
    lines = _one_place(parts[0], tolerance, room) if len(parts) == 1 else _many_places(parts, tolerance, room)
    return "\n".join([*lines, *last]) + "\n"


def _one_place(here: Derived, tolerance: float, most: int) -> list[str]:
    """Return the title, the table and the headline in at most `most` lines. A table that does not fit is cut."""
    sentences = _sentences(here, tolerance)
    heading, *rows = results_table(here.cells).to_string(index=False).splitlines()
    # The title, the heading and an empty line take 3 lines.
    room = most - len(sentences) - 3
    if len(rows) > room:
        kept = room - 1
        rows = [*rows[:kept], f"... and {len(rows) - kept} more rows, in EXPERIMENTS.md"]
    return [title(here), heading, *rows, "", *sentences]


def _many_places(parts: list[Derived], tolerance: float, most: int) -> list[str]:
    """Return as many headlines as fit into `most` lines, each below its title."""
    lines: list[str] = []
    for number, here in enumerate(parts):
        block = [title(here), *_sentences(here, tolerance)]
        if len(lines) + len(block) > most - 1:
            omitted = len(parts) - number
            return [*lines, f"... and {omitted} more models, tasks or settings; the tables are in EXPERIMENTS.md"]
        lines += block
    return [*lines, "The tables are in EXPERIMENTS.md."]


def _sentences(here: Derived, tolerance: float) -> list[str]:
    """Return the headline with one line per sentence. A terminal wraps long lines."""
    return [f"- {sentence}" for sentence in headline(here, tolerance) or [NO_CONCLUSION]]
