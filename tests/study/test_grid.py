"""The names of the study: those of runs and cells, and where their files are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseft import grid
from sparseft.errors import InputError
from sparseft.grid import METHODS, MODES, NO_FINETUNE, SEEDS, Cell, Run
from sparseft.methods import get_method

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


def test_masks_and_pruned_bases_lie_in_a_folder_of_the_task_if_they_depend_on_its_examples():
    on_texts = [f"{name}_on_{text}" for name in grid.EXAMPLE_METHODS for text in ("c4", "taskc4")]
    on_texts += ["unstructured_wanda_on_self", "structured_obs_on_task", "layers_perplexity_on_task"]
    for name in [*METHODS, "dense", "imported_a", *on_texts]:
        method, run = get_method(name), Run("llama", "boolq", name, 50, "sparse_to_dense", 0)
        task = "boolq/" if method.uses_task else ""
        assert grid.fill(grid.mask_path(name), run) == f"masks/llama/{task}masks_sparsity50_{name}.pt"
        base = f"pruned/llama/{task}sparsity50_{name}" if method.has_pruned_base else "models/llama"
        assert grid.fill(grid.base_manifest(name), run) == f"{base}/manifest.json"
        assert grid.fill(grid.exported(name), run) == f"modelzoo/llama/{task}sparsity50_{name}"


def test_an_added_sparsity_is_in_the_name_of_its_report():
    together = grid.pass_files("masks/m", "random", ["50", "80"]).outputs()
    one = grid.pass_files("masks/m", "random", ["50"], is_added=True).outputs()
    assert [path.name for path in together[1:3]] == ["masks_sparsity50_random.pt", "masks_sparsity80_random.pt"]
    names = [str(path.relative_to("masks/m")) for path in (together[0], one[0], one[-1])]
    assert names == ["report_random.json", "report_random_sparsity50.json", "plots/sparsity_random_sparsity50.png"]
