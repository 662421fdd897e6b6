"""The names of the study: those of runs and cells, and where their files are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseft.axes import grid
from sparseft.axes.grid import METHODS, MODES, NO_FINETUNE, SEEDS, Cell, Run
from sparseft.common.errors import InputError

AXES = {name: st.from_regex(grid.WILDCARDS[name], fullmatch=True) for name in ("model", "task")}
AXES |= {"method": st.sampled_from(METHODS), "sparsity": st.integers(0, 99)}
TRAINED = st.sampled_from([mode for mode in MODES if mode != NO_FINETUNE])
TRAINING = st.from_regex(rf"(?:{grid.TRAINING})?", fullmatch=True)
CELLS = st.builds(Cell, **AXES, mode=TRAINED, training=TRAINING) | st.builds(Cell, **AXES, mode=st.just(NO_FINETUNE))


@settings(max_examples=30)
@given(CELLS, st.integers(0, SEEDS - 1))
def test_a_name_parses_back_to_what_it_is_the_name_of(cell, seed):
    run = Run(**vars(cell), seed=seed)
    assert Cell.parse(cell.id) == cell
    assert Run.parse(run.id) == run
    assert grid.fill(grid.ResultPaths().throughput, run) == f"results/throughput/{cell.id}.json"
    # A name is that of a cell or of a run, and never of both.
    for name, other in ((run.id, Cell), (cell.id, Run)):
        with pytest.raises(InputError, match=f"is not the name of a {other.__name__.lower()}; write"):
            other.parse(name)


def test_a_run_is_spelled_as_the_design_says():
    run = Run("m.1", "boolq", "unstructured", 5, "reconstruct_to_sparse", 7, training="lr1e.4")
    assert run.id == "m.1-boolq-unstructured-sparsity05-reconstruct_to_sparse-lr1e.4-seed7"
    assert Run("m", "gsm8k", "dense", 0, "no_finetune", 0).id == "m-gsm8k-dense-sparsity00-no_finetune-seed0"
    assert grid.ResultPaths("results/a").trained(run) == [f"results/a/runs/{run.id}/adapter"]
    for old, new in (("05", "5"), ("seed7", "seed07"), ("unstructured", "random_on_c4")):
        with pytest.raises(InputError, match="is not the name of a run"):
            Run.parse(run.id.replace(old, new))
