"""Compare the best points with those found by hand."""

import numpy as np
import pandas as pd
import pytest
from sparseft.analysis.statistics import BEYOND, UNDECIDED, WITHIN
from sparseft.analysis.tradeoffs import comparable_speeds, pareto, tradeoffs
from sparseft.study.grid import Cell


def curve(*points: tuple, mode: str = "sparse_to_dense", device: str = "CPU") -> list[dict]:
    """Return the rows of one curve of unstructured pruning from its points (sparsity, value, speed, verdict)."""
    return [
        {"model": "m", "task": "t", "metric": "acc", "method": "unstructured", "mode": mode, "n": 1, "n_sound": 1,
         "sparsity": sparsity, "reached_sparsity": sparsity / 100, "value": value, "samples_per_second": speed, "verdict": verdict, "device": device, "processes": 1,
         "gradient_checkpointing": False, "cache_weights": False,
         "difference_to_dense": 0.0, "difference_low": 0.0, "difference_high": 0.0}
        for sparsity, value, speed, verdict in points
    ]  # fmt: skip


def best(rows: list[dict], name: str) -> list[tuple[str, int]]:
    table = tradeoffs(pd.DataFrame(rows))
    return list(table[table[name]][["method", "sparsity"]].itertuples(index=False, name=None))


def test_a_front_by_hand():
    gains = np.array([[1, 1], [2, 0], [0, 2], [0, 1], [1, 0], [2, 0], [3, np.nan]])
    # The first three are the front, twins both belong to it, and what has no number does not.
    assert pareto(gains).tolist() == [True, True, True, False, False, True, False]


def test_dense_stands_once_and_what_is_pruned_further_and_as_good_beats_it():
    rows = curve((0, 0.7, 4, None), (50, 0.7, 4, WITHIN), (70, 0.6, 4, BEYOND), (90, 0.6, 4, BEYOND))
    assert best(rows, "best_for_sparsity") == [("unstructured", 50), ("unstructured", 90)]
    masked = curve((0, 0.9, 4, None), (50, 0.7, 4, WITHIN), mode="sparse_to_sparse")
    plain = curve((0, 0.9, 4, None))
    assert best(plain + masked, "best_for_sparsity") == [("dense", 0), ("unstructured", 50)]


def test_speeds_of_two_devices_do_not_compete():
    rows = curve((50, 0.7, 4, WITHIN), (70, 0.6, 3, WITHIN)) + curve((90, 0.8, 40, WITHIN), device="GPU")
    assert best(rows, "best_for_speed") == [("unstructured", 50), ("unstructured", 90)]


def test_the_largest_sparsity_within_stands_before_the_first_that_fails():
    verdicts = [(30, WITHIN), (50, WITHIN), (70, UNDECIDED), (80, WITHIN)]
    rows = curve(*((sparsity, 0.5, 4, verdict) for sparsity, verdict in verdicts))
    assert best(rows, "largest_within") == [("unstructured", 50)]
    assert best(curve((30, 0.5, 4, BEYOND), (50, 0.6, 4, WITHIN)), "largest_within") == []


def test_points_that_are_not_valid_take_no_part_and_end_the_search():
    rows = curve((30, 0.5, 4, WITHIN), (50, 0.9, 9, None), (70, 0.4, 4, WITHIN))
    rows[1]["n_sound"] = 0
    assert best(rows, "largest_within") == [("unstructured", 30)]
    assert best(rows, "best_for_sparsity") == [("unstructured", 30), ("unstructured", 70)]


def test_the_reached_sparsity_decides_and_a_mask_that_prunes_nothing_takes_no_part():
    rows = curve((0, 0.7, 4, None), (1, 0.9, 4, WITHIN), (5, 0.7, 4, WITHIN), (10, 0.7, 4, WITHIN))
    for row, reached in zip(rows, (0.0, 0.0, 0.12, 0.038), strict=True):
        row["reached_sparsity"] = reached
    assert best(rows, "best_for_sparsity") == [("unstructured", 5)]
    assert best(rows, "largest_within") == [("unstructured", 5)]


def test_a_sparsity_of_which_a_run_is_missing_ends_the_search():
    rows = curve((30, 0.5, 4, WITHIN), (50, 0.5, 4, WITHIN), (70, 0.5, 4, WITHIN))
    lost = Cell("m", "t", "unstructured", 50, "sparse_to_dense")
    table = tradeoffs(pd.DataFrame(rows), [lost])
    assert table[table["largest_within"]]["sparsity"].tolist() == [30]


def test_speeds_of_other_numbers_of_processes_do_not_compete():
    rows = curve((50, 0.7, 4, WITHIN), (70, 0.6, 40, WITHIN))
    rows[1]["processes"] = 4
    assert best(rows, "best_for_speed") == [("unstructured", 50), ("unstructured", 70)]
    slower = curve((30, 0.6, 3, WITHIN))
    assert best(rows + slower, "best_for_speed") == [("unstructured", 50), ("unstructured", 70)]


@pytest.mark.parametrize("choice", ["gradient_checkpointing", "cache_weights"])
def test_speeds_of_trainings_that_save_memory_or_time_do_not_compete_with_others(choice):
    rows = curve((50, 0.7, 3, WITHIN), (70, 0.6, 4, WITHIN))
    assert best(rows, "best_for_speed") == [("unstructured", 50), ("unstructured", 70)]
    assert best(curve((50, 0.7, 4, WITHIN), (70, 0.6, 3, WITHIN)), "best_for_speed") == [("unstructured", 50)]
    rows = curve((50, 0.7, 4, WITHIN), (70, 0.6, 3, WITHIN))
    rows[1][choice] = True
    assert best(rows, "best_for_speed") == [("unstructured", 50), ("unstructured", 70)]


def test_a_reconstruction_does_not_compete_with_a_training_on_the_task():
    rows = curve((50, 0.7, 3, WITHIN)) + curve((70, 0.8, 40, WITHIN), mode="reconstruct")
    assert best(rows, "best_for_speed") == [("unstructured", 50), ("unstructured", 70)]
    assert best(curve((50, 0.7, 3, WITHIN), (70, 0.8, 40, WITHIN)), "best_for_speed") == [("unstructured", 70)]


def test_points_whose_speeds_can_be_compared_are_named_by_what_sets_them_apart():
    rows = curve((0, 0.9, 4, None), (50, 0.7, 3, WITHIN), (70, 0.6, 2, WITHIN))
    assert [words for words, _ in comparable_speeds(pd.DataFrame(rows))] == ["CPU"]
    rows[1]["processes"] = 2
    rows[2]["gradient_checkpointing"] = True
    rows += curve((80, 0.5, 9, WITHIN), mode="reconstruct")
    rows += curve((90, 0.5, np.nan, WITHIN), mode="no_finetune", device=None)
    groups = {words: members["sparsity"].tolist() for words, members in comparable_speeds(pd.DataFrame(rows))}
    assert groups == {
        "CPU, 1 process, without gradient_checkpointing, training on the task": [0],
        "CPU, 2 processes, without gradient_checkpointing, training on the task": [50],
        "CPU, 1 process, with gradient_checkpointing, training on the task": [70],
        "CPU, 1 process, without gradient_checkpointing, reconstruction": [80],
    }
