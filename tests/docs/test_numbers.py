"""Tables of the pages beside the measurements that they show."""

import pytest
from pages import ROOT, rows_of, section
from statsmodels.stats.power import TTestPower

RESULTS = ROOT / "benchmarks/results"


def test_the_table_of_three_measures_is_that_of_the_simulation():
    rows = rows_of((RESULTS / "measures.md").read_text())[2:]
    shown = rows_of(section("statistics.md", "Three measures"))[2:]
    assert shown == [[size, *shares] for size, windows, *shares in rows if windows == "16"]


@pytest.mark.parametrize("row", rows_of(section("statistics.md", "How many examples"))[2:])
def test_the_examples_that_a_difference_needs_are_those_of_statsmodels(row):
    difference = float(row[0])
    effect = difference / (0.2 - difference**2) ** 0.5
    needed = [TTestPower().solve_power(effect, alpha=0.05 / comparisons, power=0.8) for comparisons in (1, 6, 12)]
    assert [f"{number:,.0f}" for number in needed] == row[1:]
