"""The runs and the files of a study, the programs that it compiles, and the targets that a user may name."""

import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
from project import laid_over
from sparseft.axes import grid
from sparseft.axes.grid import NO_FINETUNE, Run
from sparseft.common.errors import InputError
from sparseft.study import targets
from sparseft.study.config import Config

GRID = {
    "models": ["a", "b"],
    "tasks": ["boolq", "gsm8k"],
    "methods": ["unstructured", "random"],
    "sparsities": [0, 50, 90],
    "modes": ["sparse_to_dense", "sparse_to_sparse"],
    "seeds": [0, 7],
}
STUDY = {"models": {name: {"source": "path:x"} for name in "ab"}, "tasks": {"boolq": {}, "gsm8k": {}}, "grid": GRID}


def study_of(**sections) -> Config:
    return laid_over({**STUDY, **sections})


def runs_of(trainings: dict) -> set[Run]:
    return set(targets.runs(study_of(grid=GRID | {"modes": ["reconstruct_to_sparse"], "trainings": trainings})))


def test_a_grid_has_one_dense_run_per_model_task_and_seed():
    found = targets.runs(study_of())
    cells = 2 * 2  # models x tasks
    pruned = 2 * 2  # methods x sparsities above 0
    assert len(set(found)) == len(found) == cells * (2 + 1) + cells * pruned * (2 * 2 + 1)
    dense = [run for run in found if run.sparsity == 0]
    assert {run.method for run in dense} == {"dense"}
    assert Counter(run.mode for run in dense) == {"sparse_to_dense": cells * 2, NO_FINETUNE: cells}


def test_a_method_may_have_sparsities_of_its_own():
    config = study_of(grid=GRID | {"sparsities_of": {"random": [20, 50], "structured": [10]}})
    found = {(run.method, run.sparsity) for run in targets.runs(config)}
    assert found == {("dense", 0), ("unstructured", 50), ("unstructured", 90), ("random", 20), ("random", 50)}
    # The pass of the other methods makes what it made before.
    assert targets.added_sparsities(config) == []


@pytest.mark.parametrize("modes", [["no_finetune", "sparse_to_sparse"], ["sparse_to_sparse"], ["no_finetune"]])
def test_a_study_has_its_untrained_runs_whether_it_names_the_mode_or_not(modes):
    trained = {"sparse_to_sparse", "sparse_to_dense"} if "sparse_to_sparse" in modes else set()
    found = {(run.sparsity, run.mode) for run in targets.runs(study_of(grid=GRID | {"modes": modes}))}
    assert {mode for _, mode in found} == trained | {NO_FINETUNE}
    assert {sparsity for sparsity, mode in found if mode == NO_FINETUNE} == {0, 50, 90}


def test_every_trained_run_has_every_training_and_another_training_adds_its_own_runs_only():
    few, more = runs_of({"short": {}}), runs_of({"short": {}, "long": {}})
    assert {run.training for run in more if run.mode == NO_FINETUNE} == {""}
    for mode in ("reconstruct", "reconstruct_to_sparse"):
        found = {(run.training, run.seed) for run in more if run.mode == mode}
        assert found == {(name, seed) for name in ("short", "long") for seed in GRID["seeds"]}
    assert few < more
    assert {run.training for run in more - few} == {"long"}
    # A study without names has the same runs under names without a training.
    assert runs_of({}) == {Run.parse(run.id.replace("-short-seed", "-seed")) for run in few}


@pytest.mark.parametrize(("throughput", "cells"), [
    ({}, {"dense-sparsity00-sparse_to_dense-{t}"} | {
        f"{method}-sparsity{percent}-{mode}-{{t}}"
        for method in GRID["methods"] for percent in (50, 90) for mode in GRID["modes"]}),
    ({"methods": ["random"], "sparsities": [0, 90], "modes": ["sparse_to_sparse"], "trainings": ["short"]},
     {"dense-sparsity00-sparse_to_dense-short", "random-sparsity90-sparse_to_sparse-short"}),
])  # fmt: skip
def test_throughput_is_measured_once_per_trained_cell_or_for_what_you_choose(throughput, cells):
    study = study_of(grid=GRID | {"trainings": {"short": {}, "long": {}}}, throughput=throughput)
    names = {cell.format(t=training) for cell in cells for training in ("short", "long")}
    places = {f"{model}-{task}" for model in GRID["models"] for task in GRID["tasks"]}
    expected = {f"results/throughput/{place}-{name}.json" for place in places for name in names}
    assert targets.throughput_targets(study) == sorted(expected)


RUN = "results/runs/{model}-{task}-{method}-sparsity{sparsity}-{mode}-seed{seed}/evaluation.json"
MASK = "masks/{model}/masks_sparsity{sparsity}_{method}.pt"
CELL = "results/throughput/{model}-{task}-{method}-sparsity{sparsity}-sparse_to_dense.json"
NAMES = {"model": "smollm2", "task": "boolq_mini", "method": "random", "sparsity": "50"}
NAMES |= {"mode": NO_FINETUNE, "seed": "0"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("changes", "trainings", "is_made"), [
    ({}, {}, True),
    ({"method": "structured", "task": "gsm8k_mini", "sparsity": "45", "seed": "7"}, {}, True),
    ({"task": "arc_easy"}, {}, True),
    ({"method": "unstructured_wanda_on_c4"}, {}, True),
    ({"mode": "sparse_to_dense-sh.rt"}, {"sh.rt": {}, "long": {}}, True),
    ({}, {"short": {}}, True),
    ({"sparsity": "5"}, {}, False),
    ({"model": "llama"}, {}, False),
    ({"model": "m.1"}, {}, True),
    ({"model": "mx1"}, {}, False),
    ({"task": "trivia"}, {}, False),
    ({"mode": "sparse"}, {}, False),
    ({"method": "best"}, {}, False),
    ({"method": "unstructured_wanda_on_pile"}, {}, False),
    ({"mode": "no_finetune-short"}, {"short": {}}, False),
    ({"mode": "sparse_to_dense"}, {"short": {}}, False),
    ({"mode": "sparse_to_dense-short"}, {}, False),
    ({"mode": "sparse_to_dense-best"}, {"short": {}}, False),
])  # fmt: skip
def test_rules_make_the_runs_of_the_names_in_the_configuration_only(changes, trainings, is_made):
    study = laid_over(
        {
            "models": {"m.1": {"source": "path:x"}},
            "masks": {"calibration": {"c4": {"text": "c4.jsonl"}}},
            "evaluation": {"probes": ["arc_easy"]},
            "grid": {"trainings": trainings},
        }
    )
    groups = {name: f"(?P<{name}>{expression})" for name, expression in targets.wildcards(study).items()}
    pattern = f"{study.paths.run}/evaluation.json".format(**groups)
    assert bool(re.fullmatch(pattern, RUN.format(**NAMES | changes))) == is_made


@pytest.mark.parametrize(("method", "line"), [
    ("random", None),
    ("unstructured_taylor", "are in another place; write masks/smollm2/TASK/masks_sparsity50_unstructured_taylor.pt"),
    ("unstructured_wanda_on_c4", "masks.calibration does not describe"),
])  # fmt: skip
def test_masks_are_asked_for_in_the_folder_of_their_method(folder, method, line):
    with pytest.raises(InputError, match=line) if line else nullcontext():
        targets.check_target(laid_over({}), MASK.format(**NAMES | {"method": method}))


@pytest.mark.parametrize(("target", "is_made", "refused"), [
    ("evaluate", True, ""),
    ("there", False, ""),
    ("evalute", False, "evalute: no stage .*; name a stage .prepare, x., .*: models smollm2; tasks sampled, hella"),
    ("results/analysis/sumary.csv", False, "no stage and no rule makes it"),
])  # fmt: skip
def test_a_target_that_nothing_makes_is_refused(folder, target, is_made, refused):
    (folder / "there").touch()
    with pytest.raises(InputError, match=refused) if refused else nullcontext():
        targets.check_target(laid_over({}), target, is_made, ["prepare", "x"])


@pytest.mark.parametrize("keep_merged", [False, True])
def test_a_merged_model_that_the_study_deletes_is_no_target(folder, keep_merged):
    config = laid_over({"keep_merged": keep_merged})
    folder = RUN.format(**NAMES).rpartition("/")[0]
    targets.check_target(config, f"{folder}/merged")
    with nullcontext() if keep_merged else pytest.raises(InputError, match=f"evaluation; write {folder}/merged, or"):
        targets.check_target(config, f"{folder}/model_dir")


@pytest.mark.parametrize("trainings", [{}, {"short": {}, "long": {}}])
def test_what_every_plan_makes_is_a_target(folder, trainings):
    study = laid_over({"grid": {"methods": ["random", "structured_taylor"], "trainings": trainings}})
    files = [*targets.final_targets(study), *targets.mask_targets(study), *targets.throughput_targets(study)]
    assert len(files) > 30
    for target in files:
        targets.check_target(study, target)


@pytest.mark.parametrize(("target", "sections", "line"), [
    ("throughput", {"backend": "modelzoo"}, "the backend modelzoo does not measure it"),
    (CELL.format(**NAMES), {"backend": "modelzoo"}, "the backend modelzoo does not measure it"),
    ("results/analysis/throughput_vs_batch_size.csv", {"backend": "modelzoo"}, "the backend modelzoo does not"),
    ("throughput", {"training": {"shard_model": True}}, "throughput: the whole model is measured on one device"),
    ("throughput", {"backend": "cerebras", "grid": {"methods": ["random"]}}, "set throughput.steps to 100 or more"),
    ("throughput", {"training": {"distillation": {}}}, "throughput: it is measured without a teacher"),
    ("results/analysis/summary.csv", {"backend": "modelzoo"}, None),
    ("engines", {"export": {"gguf": None, "engines": ["vllm:/no"]}}, "^engines: export.*vllm:/no: no such program"),
])  # fmt: skip
def test_a_measurement_that_is_impossible_is_refused(target, sections, line):
    with pytest.raises(InputError, match=line) if line else nullcontext():
        targets.check_target(laid_over(sections), target)


@pytest.mark.parametrize(("mode", "method", "names"), [
    ("sparse_to_sparse", "unstructured_wanda_on_web", ["web"]),
    ("reconstruct_to_sparse", "unstructured_wanda_on_web", ["web", "pile"]),
    ("reconstruct_to_sparse", "unstructured_wanda_on_pile", ["pile"]),
    ("sparse_to_sparse", "unstructured_wanda_on_both", ["both-m"]),
    ("sparse_to_sparse", "unstructured_wanda_on_taskweb", ["taskweb-m/boolq"]),
])  # fmt: skip
def test_a_run_has_seen_the_texts_of_its_mask_and_of_its_reconstruction(mode, method, names):
    texts = {name: {"text": f"{name}.jsonl"} for name in ("web", "pile")}
    texts |= {"both": {"text": ["self", "web"]}, "taskweb": {"text": ["task", "web"]}}
    study = laid_over({"masks": {"calibration": texts}, "reconstruction": {"calibration": "pile"}})
    seen = targets.seen_texts(study, Run("m", "boolq", method, 50, mode, 0))
    assert seen == [f"data/calibration_{name}.jsonl" for name in names]


def added(*sparsities: int, models: tuple[str, ...] = ("m",), methods: tuple[str, ...] = ("random",)) -> list[int]:
    """Return the sparsities of the grid whose masks are made one by one."""
    grid = {"models": list(models), "methods": list(methods), "tasks": ["boolq_mini"], "sparsities": list(sparsities)}
    sources = {name: {"source": "path:x"} for name in models}
    return targets.added_sparsities(laid_over({"models": sources, "grid": grid}))


def make(*sparsities: int, folder: str = "masks/m", method: str = "random") -> None:
    """Leave the masks of a pass."""
    for file in grid.pass_files(folder, method, [f"{percent:02d}" for percent in sparsities]).masks:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_what_a_model_and_a_method_lack_is_made_alone(folder):
    assert added(0, 50, 80) == []
    make(0, 50)
    assert added(0, 50, 80, 90) == [80, 90]
    make(80)
    assert added(0, 50, 80) == added(0, 80) == []
    assert added(10, 20) == []


def test_models_methods_and_tasks_count_for_themselves_and_updated_weights_for_nothing(folder):
    make(0, 50)
    assert added(0, 50, 80, models=("other",)) == added(0, 50, 80, methods=("structured",)) == []
    make(0, 50, 80, folder="masks/other")
    assert added(0, 50, 80, models=("m", "other")) == [80]
    make(50, folder="masks/m/boolq_mini", method="unstructured_sparsegpt")
    assert added(50, 70, methods=("unstructured_sparsegpt", "unstructured_taylor")) == []
    make(50, folder="masks/m/boolq_mini", method="unstructured_taylor")
    assert added(50, 70, methods=("unstructured_sparsegpt", "unstructured_taylor")) == [70]
