"""The page on tuning shows the table that benchmarks/intervals.py wrote."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_has_every_row_of_the_simulation():
    lines = (ROOT / "docs/tuning.md").read_text(encoding="utf-8").splitlines()
    results = (ROOT / "benchmarks/results/false_choices.md").read_text().splitlines()
    rows = [line for line in results if line.startswith("|")]
    assert len(rows) > 4
    begin = lines.index(rows[0])
    assert lines[begin : begin + len(rows)] == rows
