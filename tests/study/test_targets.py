"""The targets of a command: what no rule makes is refused with the place of the fault."""

from pathlib import Path

import pytest
from sparseft.errors import InputError
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import read_configuration

RUN = "results/runs/{model}-{task}-{method}-sparsity{sparsity}-{mode}-seed{seed}/evaluation.json"
NAMES = {
    "model": "smollm2",
    "task": "boolq_mini",
    "method": "random",
    "sparsity": "50",
    "mode": "no_finetune",
    "seed": "0",
}
MASK = "masks/{model}/masks_sparsity{sparsity}_{method}.pt"
TASK_MASK = "masks/{model}/{task}/masks_sparsity{sparsity}_{method}.pt"
CELL = "results/throughput/{model}-{task}-{method}-sparsity{sparsity}-sparse_to_dense.json"


@pytest.fixture
def study(tmp_path, monkeypatch) -> Config:
    """Return a study of sparsities 0, 5 and 50, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text("grid: {methods: [random], sparsities: [0, 5, 50]}")
    return read_configuration([Path("study.yaml")])


def refused(study: Config, target: str) -> str:
    """Return the line of a target that is refused."""
    with pytest.raises(InputError) as caught:
        targets.check_target(study, target)
    line = str(caught.value)
    assert line.startswith(f"{target}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("mode", "method", "names"), [
    ("sparse_to_sparse", "unstructured", []),
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


@pytest.mark.parametrize("pattern", [RUN, MASK, CELL])
def test_what_the_grid_lacks_is_named_with_what_it_has(study, pattern):
    line = refused(study, pattern.format(**NAMES | {"sparsity": "45"}))
    assert "sparsity 45" in line
    assert "grid.sparsities: 0, 5, 50" in line
    line = refused(study, pattern.format(**NAMES | {"model": "llama"}))
    assert "model llama" in line
    assert "smollm2" in line
    line = refused(study, pattern.format(**NAMES | {"method": "best"}))
    assert "method 'best' is unknown" in line
    assert "unstructured_wanda" in line


@pytest.mark.parametrize(
    ("axis", "name"), [("task", "trivia"), ("mode", "sparse"), ("seed", "01"), ("seed", str(2**63))]
)
def test_a_run_of_an_unknown_task_mode_or_seed_is_refused(study, axis, name):
    assert name in refused(study, RUN.format(**NAMES | {axis: name}))


def test_a_sparsity_has_two_digits(study):
    assert "sparsity05" in refused(study, MASK.format(**NAMES | {"sparsity": "5"}))


def test_dense_has_one_sparsity(study):
    assert "00" in refused(study, MASK.format(**NAMES | {"method": "dense"}))


def test_a_mask_in_another_folder_than_its_own_is_refused_with_the_right_one(study):
    names = NAMES | {"method": "unstructured_wanda"}
    assert "write masks/smollm2/TASK/masks_sparsity50_unstructured_wanda.pt" in refused(study, MASK.format(**names))
    assert "write masks/smollm2/masks_sparsity50_random.pt" in refused(study, TASK_MASK.format(**NAMES))


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


def test_what_every_plan_asks_for_is_a_target(study):
    asked = [*targets.final_targets(study), *targets.mask_targets(study), *targets.throughput_targets(study)]
    assert len(asked) > 30
    for target in asked:
        targets.check_target(study, target)


def test_the_nearest_name_is_said():
    stages = ["masks", "train", "evaluate"]
    assert "evaluate" in str(targets.no_rule("evalute", stages, stages))
    assert "a/summary.csv" in str(targets.no_rule("a/sumary.csv", ["a/summary.csv", "a/missing.csv"], stages))
    assert "masks, train, evaluate" in str(targets.no_rule("xyz", stages, stages))
    assert "a/adapter" not in str(targets.no_rule("a/compact", ["a/adapter", "a/model_dir"], stages))
