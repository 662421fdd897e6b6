"""Test what the modes say of one another."""

from sparseft.modes import MODES, get_mode, with_starts
from sparseft.study import grid


def test_a_mode_brings_the_one_that_it_starts_from():
    assert with_starts(["reconstruct_to_sparse"]) == ["reconstruct", "reconstruct_to_sparse"]
    assert with_starts(["sparse_to_sparse", "sparse_to_dense"]) == ["sparse_to_dense", "sparse_to_sparse"]


def test_every_trained_mode_is_made_in_one_way_and_compared_with_another_trained_one():
    assert sorted(grid.TASK_MODES + grid.RECONSTRUCTING_MODES) == sorted(grid.TRAINED_MODES)
    assert set(grid.TASK_MODES) - set(grid.NEW_ADAPTER_MODES) == {"reconstruct_to_sparse"}
    for mode in MODES:
        assert mode.dense_mode == ("sparse_to_dense" if mode.name in grid.TASK_MODES else "no_finetune")
        for name in {mode.starts_from, mode.compared_with} - {None}:
            assert get_mode(name).is_trained and name != mode.name


def test_a_training_starts_from_the_adapter_of_the_same_cell_and_seed():
    run = grid.Run("m", "t", "unstructured", 50, "reconstruct_to_sparse", 3)
    path = grid.fill(grid.ResultPaths().initial_adapter(run.mode), run)
    assert path == "results/runs/m-t-unstructured-sparsity50-reconstruct-seed3/adapter"
    assert grid.ResultPaths().initial_adapter("sparse_to_sparse") is None
