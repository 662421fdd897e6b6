"""Sentences of the pages beside the tables that they are about."""

import re
from math import inf

import pytest
from project import ROOT
from statsmodels.stats.power import TTestPower

RESULTS = ROOT / "benchmarks/results"
MODES = ("no_finetune", "reconstruct", "sparse_to_dense", "sparse_to_sparse")
CELL = re.compile(r"\*{0,2}([\d,.]+)\*{0,2}, ([\d.]+), ([\d.]+) \(([\d.]+) to ([\d.]+)\)")


def page(name: str) -> str:
    """Return the text of a page on one line."""
    return " ".join((ROOT / "docs" / name).read_text().split())


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every line of a table."""
    return [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]


def high_sparsity() -> dict[tuple[str, int, str], tuple[float, float]]:
    """Return the perplexity and the loss above dense, by method, sparsity and mode."""
    found, sparsity = {}, 0
    for name, *cells in rows_of((RESULTS / "high_sparsity.md").read_text()):
        sparsity = int(name.removesuffix(" %")) if name.endswith(" %") else sparsity
        for mode, cell in zip(MODES, cells, strict=True):
            if match := CELL.fullmatch(cell):
                found[name, sparsity, mode] = (float(match[1].replace(",", "")), float(match[3]))
    return found


def test_the_table_of_importances_has_accuracies_and_perplexities_of_the_same_masks():
    measured = {}
    for task, method, sparsity, accuracy, _, perplexity in rows_of((RESULTS / "importance.md").read_text())[2:]:
        measured[task, method, sparsity] = (float(accuracy.split()[0]), float(perplexity))
    section = (ROOT / "docs/results.md").read_text().partition("## Importances")[2].partition("\n## ")[0]
    rows = rows_of(section)[2:]
    assert len(rows) == 5
    for name, *columns in rows:
        method = name.split("`")[0]
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


def test_no_test_between_modes_survives_the_correction_that_the_page_names():
    rows = rows_of((RESULTS / "modes_differences.md").read_text())[2:]
    p_values = [float(row[column]) for row in rows for column in (4, 6)]
    # Eight more were of a gradient that is no longer there.
    tests = len(p_values) + 8
    assert f"There were {tests} such tests" in page("results.md")
    assert tests * min(p_values) == pytest.approx(0.08)


def test_sparsegpt_has_the_lowest_perplexity_everywhere_and_the_lowest_loss_where_the_page_says_so():
    cells = high_sparsity()
    assert len(cells) == 96
    is_lowest = {}
    for sparsity in (50, 60, 70):
        for mode in MODES:
            column = {name: cells[key] for key in cells for name in [key[0]] if key[1:] == (sparsity, mode)}
            assert min(column, key=lambda name: column[name][0]).startswith("SparseGPT")
            others = min((loss for name, (_, loss) in column.items() if not name.startswith("SparseGPT")), default=inf)
            is_lowest[sparsity, mode] = column["SparseGPT"][1] < others
    assert {sparsity for sparsity, _ in is_lowest if not is_lowest[sparsity, "sparse_to_dense"]} == {50}
    assert all(is_lowest[sparsity, mode] for sparsity in (60, 70) for mode in MODES)
    text = page("results.md")
    assert "By the loss on HellaSwag it is the lowest at 60 and 70 %, and not at 50 %" in text
    assert "in `sparse_to_dense` it is 0.40 nats above dense (0.34 to 0.46), and Taylor 0.34 (0.28 to 0.40)" in text


def test_the_two_modes_are_as_far_apart_as_the_page_says():
    cells = high_sparsity()
    gaps = [
        abs(loss - cells[name, sparsity, "sparse_to_sparse"][1])
        for (name, sparsity, mode), (_, loss) in cells.items()
        if mode == "sparse_to_dense" and name in ("Taylor", "Wanda", "SparseGPT")
    ]
    assert f"the two modes end {min(gaps):.2f} to {max(gaps):.2f} nats apart" in page("results.md")


def test_the_worst_design_of_false_winners_is_the_one_on_the_page():
    shares = re.findall(r"([\d.]+) \(([\d.]+)\)", (RESULTS / "false_winners.md").read_text())
    mean, worst = max(float(share) for share, _ in shares), max(float(share) for _, share in shares)
    assert (
        f"a lucky seed wins in up to {mean:.0f} % of the studies on average, and in {worst:.0f} % in the worst case"
        in page("statistics.md")
    )


def test_the_rates_of_verdicts_are_those_of_the_simulation():
    rows = rows_of((RESULTS / "verdicts.md").read_text())[2:]
    text = page("statistics.md")

    def over(column: int, examples: tuple[str, ...]) -> tuple[float, float]:
        ends = [tuple(map(float, row[column].split(" to "))) for row in rows if row[1] in examples]
        return min(low for low, _ in ends), max(high for _, high in ends)

    for column, examples, words in (
        (2, ("64",), "{:.0f} to {:.0f} % of the studies with 64 examples"),
        (2, ("256",), "{:.0f} to {:.0f} % of them with 256 examples"),
        (3, ("64", "256"), "called within in {:.1f} to {:.1f} % of the studies"),
        (4, ("64",), "at least one is in {:.0f} to {:.0f} % with 64 examples"),
        (4, ("256",), "and in {:.0f} to {:.0f} % with 256"),
    ):
        assert words.format(*over(column, examples)) in text


def test_the_table_of_three_measures_is_that_of_the_simulation_and_no_rate_of_false_winners_is_above_5_percent():
    rows = rows_of((RESULTS / "measures.md").read_text())[2:]
    section = (ROOT / "docs/statistics.md").read_text().partition("## Three measures")[2].partition("\n## ")[0]
    assert rows_of(section)[2:] == [[size, *shares] for size, windows, *shares in rows if windows == "16"]
    assert {size for size, *_ in rows} == {"24", "64", "256"}
    assert max(float(share) for _, _, _, *false_winners, _, _, _, _, _ in rows for share in false_winners) <= 5
    assert all(windows == "16" or by_divergence == "100.0" for _, windows, *_, by_divergence, _ in rows)


@pytest.mark.parametrize(
    ("difference", "texts"), [(0.02, "3,919 6,046 6,861"), (0.05, "622 960 1,090"), (0.1, "151 234 265")]
)
def test_the_examples_that_a_difference_needs_are_those_of_statsmodels(difference, texts):
    effect = difference / (0.2 - difference**2) ** 0.5
    needed = [TTestPower().solve_power(effect, alpha=0.05 / comparisons, power=0.8) for comparisons in (1, 6, 12)]
    assert [f"{number:,.0f}" for number in needed] == texts.split()
    assert f"| {difference:.2f} | {' | '.join(texts.split())} |" in page("statistics.md")
