"""The page on a fair comparison shows the tables that benchmarks/false_winner.py wrote."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["false_winner", "interval_coverage"])
def test_the_page_has_every_row_of_the_simulation(name):
    page = (ROOT / "docs/tuning.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in (ROOT / f"benchmarks/results/{name}.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 10
    begin = page.index(rows[0])
    assert page[begin : begin + len(rows)] == rows
