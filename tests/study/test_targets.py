"""The targets of a command: what no rule makes is refused with the place of the fault."""

from pathlib import Path

import pytest
from project import laid_over
from sparseft.errors import InputError
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import read_configuration

RUN = "results/runs/{model}-{task}-{method}-sparsity{sparsity}-{mode}-seed{seed}/evaluation.json"
MASK = "masks/{model}/masks_sparsity{sparsity}_{method}.pt"
TASK_MASK = "masks/{model}/{task}/masks_sparsity{sparsity}_{method}.pt"
CELL = "results/throughput/{model}-{task}-{method}-sparsity{sparsity}-sparse_to_dense.json"
NAMES = {
    "model": "smollm2",
    "task": "boolq_mini",
    "method": "random",
    "sparsity": "50",
    "mode": "no_finetune",
    "seed": "0",
}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Config:
    """Return a study of sparsities 0, 5 and 50, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return laid_over({"grid": {"methods": ["random"], "sparsities": [0, 5, 50]}})


@pytest.mark.parametrize(
    ("pattern", "changes", "line"),
    [
        (RUN, {"sparsity": "45"}, "no sparsity 45; choose among 00, 05, 50"),
        (CELL, {"sparsity": "45"}, "no sparsity 45; choose among 00, 05, 50"),
        (MASK, {"sparsity": "5"}, "no sparsity 5; choose among 00, 05, 50"),
        (MASK, {"method": "dense"}, "no sparsity 50; choose among 00"),
        (MASK, {"model": "llama"}, "no model llama; choose among smollm2"),
        (RUN, {"task": "trivia"}, "no task trivia; choose among hellaswag_mini"),
        (RUN, {"mode": "sparse"}, "no mode sparse; choose among no_finetune"),
        (RUN, {"method": "best"}, "method 'best' is unknown.*unstructured_wanda"),
        (RUN, {"method": "unstructured_wanda_on_c4"}, "masks.calibration does not describe"),
        (RUN, {"method": "imported_a"}, "masks.imported does not describe"),
        (RUN, {"method": "semistructured"}, "5 % is no N:4|N:4"),
        (RUN, {"mode": "no_finetune-long"}, "no training long; choose among none"),
        (RUN, {"mode": "sparse_to_dense-long"}, "no training long; choose among none"),
    ],
)
def test_what_the_study_lacks_is_named_with_what_it_has(study, pattern, changes, line):
    names = NAMES | changes
    if names["method"] == "semistructured":
        names["sparsity"] = "05"
    target = pattern.format(**names)
    with pytest.raises(InputError, match=line) as caught:
        targets.check_target(study, target)
    assert str(caught.value).startswith(f"{target}: ")


def test_a_training_of_the_grid_is_named_before_the_seed(study):
    named = laid_over({"grid": {"trainings": {"short": {}, "long": {}}}})
    for mode, training in (("sparse_to_dense-best", "best"), ("sparse_to_dense", "")):
        with pytest.raises(InputError, match=f"no training {training}; choose among short, long"):
            targets.check_target(named, RUN.format(**NAMES | {"mode": mode, "sparsity": "10"}))
    for mode in ("sparse_to_dense-long", "no_finetune"):
        targets.check_target(named, RUN.format(**NAMES | {"mode": mode, "sparsity": "10"}))


@pytest.mark.parametrize("changes", [{}, {"seed": "7"}, {"method": "structured"}, {"task": "gsm8k_mini"},
                                     {"sparsity": "05"}, {"method": "dense", "sparsity": "00"}])  # fmt: skip
def test_what_a_rule_makes_is_a_target_in_the_grid_or_not(study, changes):
    for pattern in (RUN, MASK, CELL):
        targets.check_target(study, pattern.format(**NAMES | changes))
    targets.check_target(study, TASK_MASK.format(**NAMES | changes | {"method": "structured_taylor", "sparsity": "50"}))


def test_a_run_on_a_mask_that_is_there_is_a_target(study):
    mask = Path(MASK.format(**NAMES | {"sparsity": "45"}))
    mask.parent.mkdir(parents=True)
    mask.touch()
    targets.check_target(study, RUN.format(**NAMES | {"sparsity": "45"}))


@pytest.mark.parametrize("trainings", [{}, {"short": {}, "long": {}}])
def test_what_every_plan_asks_for_is_a_target(study, trainings):
    study = laid_over({"grid": {"methods": ["random", "structured_taylor"], "trainings": trainings}})
    asked = [*targets.final_targets(study), *targets.mask_targets(study), *targets.throughput_targets(study)]
    assert len(asked) > 30
    for target in asked:
        targets.check_target(study, target)
        targets.check_settings(study, target)


def test_a_file_of_another_study_and_a_measurement_that_is_impossible_are_refused(study):
    with pytest.raises(InputError, match="results/other/runs/x/train.json: not in results, where"):
        targets.check_settings(study, "results/other/runs/x/train.json")
    modelzoo = laid_over({"backend": "modelzoo", "training": {"micro_batch_size": 4, "batch_size": 4}})
    for target in ("throughput", "results/throughput/x.json"):
        with pytest.raises(InputError, match="the backend modelzoo does not measure it"):
            targets.check_settings(modelzoo, target)


@pytest.mark.parametrize(("mode", "method", "names"), [
    ("sparse_to_sparse", "unstructured_wanda", []),
    ("sparse_to_sparse", "unstructured_wanda_on_web", ["web"]),
    ("reconstruct", "unstructured", ["pile"]),
    ("reconstruct_to_sparse", "unstructured_wanda_on_web", ["web", "pile"]),
    ("reconstruct_to_sparse", "unstructured_wanda_on_pile", ["pile"]),
])  # fmt: skip
def test_a_run_has_seen_the_texts_of_its_mask_and_of_its_reconstruction(tmp_path, mode, method, names):
    texts = "{web: {text: web.jsonl}, pile: {text: pile.jsonl}}"
    file = tmp_path / "study.yaml"
    file.write_text(f"masks: {{calibration: {texts}}}\nreconstruction: {{calibration: pile}}\n")
    expected = [f"data/calibration_{name}.jsonl" for name in names]
    assert targets.seen_texts(read_configuration([file]), mode, method) == expected
