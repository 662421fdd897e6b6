"""Test what the modes say of one another."""

import pytest
from sparseft.axes import grid
from sparseft.axes.modes import MODES, get_mode, with_starts


def test_a_mode_brings_the_one_that_it_starts_from():
    assert with_starts(["reconstruct_to_sparse"]) == ["reconstruct", "reconstruct_to_sparse"]
    assert with_starts(["sparse_to_sparse", "sparse_to_dense"]) == ["sparse_to_dense", "sparse_to_sparse"]


def test_every_trained_mode_is_made_in_one_way_and_compared_with_another_trained_one():
    assert sorted(grid.TASK_MODES + grid.RECONSTRUCTING_MODES) == sorted(grid.TRAINED_MODES)
    assert set(grid.TASK_MODES) - set(grid.LORA_MODES + grid.FULL_MODES) == {"reconstruct_to_sparse"}
    for mode in MODES:
        dense = "full_sparse_to_sparse" if mode.is_full else "sparse_to_dense"
        assert mode.dense_mode == (dense if mode.name in grid.TASK_MODES else "no_finetune")
        for name in {mode.starts_from, mode.compared_with} - {None}:
            assert get_mode(name).is_trained and name != mode.name


@pytest.mark.parametrize(
    ("mode", "recover_on", "start"),
    [
        ("reconstruct_to_sparse", None, "m-t-unstructured-sparsity50-reconstruct-seed3/adapter"),
        ("sparse_to_sparse", None, None),
        ("sparse_to_sparse", "t", None),
        ("sparse_to_sparse", "text", "m-text-unstructured-sparsity50-sparse_to_sparse-seed3/adapter"),
        ("full_sparse_to_dense", "text", "m-text-unstructured-sparsity50-full_sparse_to_dense-seed3/weights"),
    ],
)
def test_a_training_continues_that_of_the_same_cell_and_seed(mode, recover_on, start):
    run = grid.start_of(grid.Run("m", "t", "unstructured", 50, mode, 3), recover_on)
    assert grid.ResultPaths().trained(run) == ([f"results/runs/{start}"] if start else [])
