"""The names of the study: run_id, paths, and which runs a grid has."""

import re

import pytest
from sparseft.errors import InputError
from sparseft.importances import IMPORTANCES
from sparseft.methods import get_method
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.grid import Cell, Run
from sparseft.study.section import parse_section

STUDY = {
    "models": {"a": {"source": "path:x"}, "b": {"source": "path:y"}},
    "tasks": {"boolq": {}, "gsm8k": {}},
    "grid": {
        "models": ["a", "b"],
        "tasks": ["boolq", "gsm8k"],
        "methods": ["unstructured", "random"],
        "sparsities": [0, 50, 90],
        "modes": ["sparse_to_dense", "sparse_to_sparse"],
        "seeds": [0, 7],
    },
}


def test_run_id_is_spelled_as_the_design_says():
    run = Run("llama", "boolq", "unstructured", 50, "sparse_to_sparse", 7)
    assert run.id == "llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed7"
    assert Run("m.1", "gsm8k", "dense", 0, "no_finetune", 0).id == "m.1-gsm8k-dense-sparsity00-no_finetune-seed0"


def test_every_run_of_a_grid_parses_back_from_its_id():
    found = targets.runs(parse_section(Config, STUDY, "configuration"))
    assert [Run.parse(run.id) for run in found] == found
    assert len({run.id for run in found}) == len(found)


def test_a_grid_has_one_dense_run_a_model_task_and_seed():
    found = targets.runs(parse_section(Config, STUDY, "configuration"))
    cells = 2 * 2  # models x tasks
    pruned = 2 * 2  # methods x sparsities above 0
    assert len(found) == cells * (2 + 1) + cells * pruned * (2 * 2 + 1)
    dense = [run for run in found if run.sparsity == 0]
    assert {run.method for run in dense} == {"dense"}
    assert len([run for run in dense if run.mode == "sparse_to_dense"]) == cells * 2
    assert len([run for run in dense if run.mode == "no_finetune"]) == cells


@pytest.mark.parametrize("name", ["", "llama", "a-b-unstructured-sparsity5-no_finetune-seed0",
                                  "../x-boolq-random-sparsity50-no_finetune-seed0",
                                  "a-boolq-random-sparsity50-no_finetune-seed00"])  # fmt: skip
def test_a_name_that_is_no_run_is_refused(name):
    with pytest.raises(InputError, match="is not the name of a run"):
        Run.parse(name)


def test_a_cell_is_a_run_without_its_seed():
    run = Run("m.1", "boolq", "random", 5, "sparse_to_dense", 3)
    cell = Cell.parse(run.id.removesuffix("-seed3"))
    assert cell == Cell("m.1", "boolq", "random", 5, "sparse_to_dense")
    pattern = grid.ResultPaths().throughput
    assert grid.fill(pattern, cell) == grid.fill(pattern, run) == f"results/throughput/{cell.id}.json"
    with pytest.raises(InputError, match="is not the name of a cell; write"):
        Cell.parse(run.id)


def test_throughput_is_measured_once_a_trained_cell_or_for_what_is_asked():
    every = targets.throughput_targets(parse_section(Config, STUDY, "configuration"))
    assert len(every) == 4 * (1 + 2 * 2 * 2)  # models x tasks x (dense + methods x sparsities x modes)
    asked = {"methods": ["random"], "sparsities": [0, 90], "modes": ["sparse_to_sparse"]}
    some = targets.throughput_targets(parse_section(Config, {**STUDY, "throughput": asked}, "configuration"))
    cells = {"dense-sparsity00-sparse_to_dense", "random-sparsity90-sparse_to_sparse"}
    assert {path.split("-", 2)[2] for path in some} == {f"{cell}.json" for cell in cells}
    assert len(some) == 4 * 2


def test_masks_and_pruned_bases_lie_in_a_folder_of_the_task_if_they_depend_on_its_examples():
    uniform = [get_method(name) for name in grid.TASK_METHODS if not get_method(name).allocation]
    assert {method.importance for method in uniform} == {value for value in IMPORTANCES if value.statistic}
    for method in [*grid.METHODS, "dense", *(f"{name}_on_c4" for name in grid.TASK_METHODS)]:
        run = Run("llama", "boolq", method, 50, "sparse_to_dense", 0)
        task = "boolq/" if get_method(method).uses_task else ""
        assert grid.fill(grid.mask_path(method), run) == f"masks/llama/{task}masks_sparsity50_{method}.pt"
        updates = get_method(method).updates_weights
        base = f"pruned/llama/{task}sparsity50_{method}" if updates else "models/llama"
        assert grid.fill(grid.base_manifest(method), run) == f"{base}/manifest.json"
        assert Run.parse(run.id) == run
    for method in grid.WEIGHT_METHODS:
        with pytest.raises(InputError, match="is not the name of a run"):
            Run.parse(f"llama-boolq-{method}_on_c4-sparsity50-sparse_to_dense-seed0")


def programs(needed=targets.programs, **sections) -> dict[str, targets.Program]:
    return needed(parse_section(Config, {**STUDY, "backend": "cerebras", **sections}, "configuration"))


def test_seeds_tasks_and_methods_that_keep_as_many_weights_of_each_layer_share_a_program():
    found = programs()
    assert len(found) == 2 * (1 + 2 * 2)  # models x (dense + sparsities x modes)
    assert {name.rpartition("-")[0] for name in found if name.startswith("a-")} == {
        "a-dense-sparsity00-sparse_to_dense",
        *(f"a-layer-sparsity{s}-{mode}" for s in (50, 90) for mode in ("sparse_to_dense", "sparse_to_sparse")),
    }
    assert all(re.fullmatch(grid.WILDCARDS["program"], name) for name in found)
    study = parse_section(Config, {**STUDY, "backend": "cerebras"}, "configuration")
    trained = [run for run in targets.runs(study) if run.mode != "no_finetune"]
    names = {run: targets.program_name(study, targets.training_program(study, run)) for run in trained}
    assert set(names.values()) == set(found)
    for name, program in found.items():
        assert program.run == min(run for run in trained if names[run] == name)
        assert not program.measured


def test_what_changes_the_program_makes_another():
    schedule = {"boolq": {}, "gsm8k": {"training": {"batch_size": 64}}}
    assert len(programs(tasks=schedule)) == 2 * len(programs())
    assert len(programs(tasks={"boolq": {}, "gsm8k": {"training": {"eval_every": 5}}})) == len(programs())
    assert len(programs(masks={"scope": "global"})) == 2 * (1 + 2 * 2 * 2)  # a layer's count is its method's own
    divided = programs(grid={**STUDY["grid"], "methods": ["unstructured", "unstructured_owl"]})
    assert len(divided) == 2 * (1 + 2 * 2 + 2 * 2 * 2)  # models x (dense + what is uniform + owl's counts of each task)
    before = set(programs())
    for changed in ({"sequence_length": 256}, {"csx_micro_batch_size": 8}, {"num_csx": 2}):
        assert not before & set(programs(cerebras=changed))
    assert before == set(programs(cerebras={"job_time_sec": 3600, "job_labels": ["name=x"]}))


def test_every_batch_size_is_measured_with_a_program_of_its_own():
    asked = {
        "batch_sizes": [64, 32],
        "sparsities": [0, 50],
        "modes": ["sparse_to_sparse"],
        "steps": 100,
        "warmup_steps": 9,
    }
    found = programs(targets.measured_programs, throughput=asked)
    assert len(found) == 2 * 2 * 2  # models x (dense, 50 %) x batch sizes; tasks and methods share
    for program in found.values():
        settings = program.settings
        assert (settings.steps, settings.eval_every, settings.save_every) == (109, 0, 0)
        assert settings.batch_size == settings.micro_batch_size
        assert (program.sequence_length, program.measured) == (512, True)
    assert sorted(program.settings.batch_size for program in found.values()) == [32] * 4 + [64] * 4
    assert not set(found) & set(programs())
    longer = programs(targets.measured_programs, throughput={**asked, "sequence_length": 1024})
    assert {program.sequence_length for program in longer.values()} == {1024}
    assert not set(found) & set(longer)
    assert programs(targets.measured_programs, throughput=asked, cerebras={"target": "CPU"}) == {}


@pytest.mark.parametrize(("asked", "environment", "compiles"), [
    (True, None, True), (False, None, False), (False, "1", True), (True, "0", False), (True, "", True),
])  # fmt: skip
def test_compile_once_of_the_environment_goes_first(monkeypatch, asked, environment, compiles):
    monkeypatch.setenv("COMPILE_ONCE", environment) if environment is not None else monkeypatch.delenv(
        "COMPILE_ONCE", raising=False
    )
    assert bool(programs(cerebras={"compile_once": asked})) == compiles
    assert programs(cerebras={"compile_once": asked, "target": "CPU"}) == {}
    assert programs(cerebras={"compile_once": asked}, backend="torch") == {}


def test_another_word_in_compile_once_is_refused(monkeypatch):
    monkeypatch.setenv("COMPILE_ONCE", "true")
    with pytest.raises(InputError, match="COMPILE_ONCE=true in the environment; set it to 1 or 0"):
        programs()
