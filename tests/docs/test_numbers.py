"""Tables of the pages beside the measurements that they show."""

import pytest
from pages import ROOT, rows_of, section
from statsmodels.stats.power import TTestPower

RESULTS = ROOT / "benchmarks/results"


def test_the_table_of_importances_has_accuracies_and_perplexities_of_the_same_masks():
    measured = {}
    for task, method, sparsity, accuracy, _, perplexity in rows_of((RESULTS / "importance.md").read_text())[2:]:
        measured[task, method, sparsity] = (float(accuracy.split()[0]), float(perplexity))
    rows = rows_of(section("results.md", "Importances, without fine-tuning"))[2:]
    assert len(rows) == 5
    for name, *columns in rows:
        method = name.split("`")[1]
        numbers = [[float(part.replace(",", "")) for part in text.split(" / ")] for text in columns if "/" in text]
        for place, sparsity in enumerate(("30", "50", "70")):
            mini, other = (measured[task, method, sparsity] for task in ("hellaswag_mini", "hellaswag"))
            assert numbers[0][place] == mini[0]
            assert numbers[1][place] == rounded(mini[1], method)
            # Masks that look at no example are the same.
            assert numbers[-1][place] == rounded(other[1], method)


def rounded(perplexity: float, method: str) -> float:
    """Return a perplexity as the page prints it: one digit of a random mask, one decimal below 100."""
    return float(f"{perplexity:.0e}") if method == "random" else round(perplexity, 1 if perplexity < 100 else None)


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
