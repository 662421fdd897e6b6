"""The pages show the tables that benchmarks/intervals.py wrote."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "name"), [("statistics", "coverage"), ("statistics", "false_winners"), ("tuning", "false_choices")]
)
def test_the_page_has_every_row_of_the_simulation(page, name):
    lines = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in (ROOT / f"benchmarks/results/{name}.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 4
    begin = lines.index(rows[0])
    assert lines[begin : begin + len(rows)] == rows
