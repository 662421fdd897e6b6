"""Numbers of the pages beside the measurements that they show."""

import re

import pytest
from pages import ROOT, rows_of, section
from statsmodels.stats.power import TTestPower

RESULTS = ROOT / "benchmarks/results"


def test_the_shares_of_differences_by_three_measures_are_those_of_the_simulation():
    header, _, *rows = rows_of((RESULTS / "measures.md").read_text())
    (row,) = (dict(zip(header, row, strict=True)) for row in rows if row[:2] == ["64", "16"])
    shares = [row[name] for name in ("found: accuracy only", "found: any", "false winners: all")]
    assert re.findall(r"in\s+([\d.]+) %", section("statistics.md", "Three measures"))[-3:] == shares


@pytest.mark.parametrize("row", rows_of(section("statistics.md", "How many examples"))[2:])
def test_the_examples_that_a_difference_needs_are_those_of_statsmodels(row):
    difference = float(row[0])
    effect = difference / (0.2 - difference**2) ** 0.5
    needed = [TTestPower().solve_power(effect, alpha=0.05 / comparisons, power=0.8) for comparisons in (1, 6, 12)]
    assert [f"{number:,.0f}" for number in needed] == row[1:]
