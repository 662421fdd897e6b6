"""Simulate studies without a difference between the modes with the project's own choice and tests (benchmarks/false_winner.py)."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from false_winner import Design, coverage, decide, false_winners, simulate

SMALL = Design((4, 4), seeds=2, seed_deviation=0.01, validation=100, selection=100, studies=200)
# The upper end of what 200 studies show of a rate of 5 %: three standard errors above it.
LIMIT = 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
PROJECT = "selection, rule of the project"


@pytest.mark.long
@pytest.mark.parametrize("design", [SMALL, replace(SMALL, trainings=(8, 1)), replace(SMALL, seeds=1)])
def test_a_choice_on_the_selection_rows_keeps_the_level(design):
    assert false_winners(design)[PROJECT] <= LIMIT


@pytest.mark.long
def test_without_a_choice_a_lucky_seed_is_no_winner():
    rates = false_winners(replace(SMALL, trainings=(1, 1), seeds=1, seed_deviation=0.04, validation=400))
    assert rates["validation, one test"] > LIMIT
    assert rates[PROJECT] <= LIMIT


@pytest.mark.long
def test_a_choice_on_the_validation_rows_does_not():
    design = replace(SMALL, trainings=(8, 1), seeds=1, seed_deviation=0)
    rates = false_winners(design)
    assert rates["validation, one test"] > LIMIT
    assert rates["selection, one test"] <= LIMIT


def test_a_difference_that_is_there_is_found():
    design = replace(SMALL, seeds=3, seed_deviation=0, validation=300, studies=20)
    pairs = [(ours.validation[0], theirs.validation[0]) for ours, theirs in simulate(design)]
    # A third of the examples becomes right, in all three seeds.
    better = [(np.maximum(ours, np.arange(300) % 3 == 0), theirs) for ours, theirs in pairs]
    assert decide(better).mean() > 0.8


def test_the_interval_of_the_project_covers_the_truth_and_that_over_the_examples_does_not():
    shares = coverage(Design((1, 1), seeds=3, seed_deviation=0.04, validation=400, selection=1, studies=200))
    assert shares["combined (the project's)"] >= 0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5
    assert shares["examples"] < 0.9
