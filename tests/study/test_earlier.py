"""What is said before a plan makes something again."""

from pathlib import Path

import pytest
import sparseft
from project import laid_over
from sparseft.storage.atomic import write_json
from sparseft.study.configfiles import complete_text
from sparseft.study.earlier import made_again

RUNS = "results/runs"
STUDY = laid_over({})


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A folder with two trainings, of version 0.1.0 and of this one."""
    monkeypatch.chdir(tmp_path)
    write_json(f"{RUNS}/old/train.json", {"versions": {"sparseft": "0.1.0"}})
    write_json(f"{RUNS}/new/train.json", {"versions": {"sparseft": sparseft.__version__}})
    return tmp_path


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_the_model_the_masks_and_the_runs_of_an_earlier_version_are_named(study):
    planned = paths("models/m/manifest.json", "masks/m/a.pt", "masks/m/b.pt", "masks/m/report_a.json")
    planned += paths(
        f"{RUNS}/old/adapter", f"{RUNS}/old/train.json", f"{RUNS}/new/train.json", f"{RUNS}/untrained/merge.json"
    )
    line = made_again(STUDY, planned)
    assert line.startswith("models/m, 2 masks, 2 runs in results/runs: ")
    assert f"sparseft 0.1.0, now {sparseft.__version__}" in line


def test_nothing_is_said_if_nothing_of_it_is_made_again(study):
    assert made_again(STUDY, []) == ""
    assert made_again(STUDY, paths(f"{RUNS}/new/train.json", "results/analysis/summary.csv")) == ""


def test_models_data_and_masks_that_a_plan_replaces_are_named(study):
    (study / RUNS / "old/train.json").unlink()
    planned = paths("models/m/manifest.json", "masks/m/t/a.pt", "masks/m/t/b.pt", f"{RUNS}/new/train.json")
    assert made_again(STUDY, planned).startswith("the plan makes masks/m/t, models/m again, ")
    assert made_again(STUDY, planned[3:]) == ""


NUMBERS = {"train_examples": 480, "validation_examples": 64}
OWN_RESULTS = "a results folder of its own (results: results/NAME)"


@pytest.mark.parametrize(
    ("sections", "changed", "advice"),
    [
        (
            {"training": {"learning_rate": 0.5}},
            "training.learning_rate is 0.5 instead of 0.003: ",
            f"grid.trainings, or {OWN_RESULTS}",
        ),
        (
            {"tasks": {"hellaswag_mini": {**NUMBERS, "training": {"steps": 9}}}, "training": {"steps": 5}},
            "tasks.hellaswag_mini.training.steps is 9 instead of 20: ",
            f"grid.trainings, or {OWN_RESULTS}",
        ),
        (
            {"tasks": {"hellaswag_mini": NUMBERS | {"train_examples": 9}}, "evaluation_batch_size": 3},
            "tasks.hellaswag_mini.train_examples is 9 instead of 480, evaluation_batch_size is 3 instead of 32: ",
            "a study in another folder, because ",
        ),
        ({"evaluation_batch_size": 3}, "evaluation_batch_size is 3 instead of 32", OWN_RESULTS),
        (
            {"perplexity": {"context": 64}},
            'perplexity is {"local": null, "hub": null, "context": 64} instead of null',
            "",
        ),
        ({"masks": {"scope": "row"}}, "masks.scope is row instead of ", "a study in another folder, because "),
        (
            {"models": {"smollm2": {**STUDY.models["smollm2"].model_dump(), "dtype": "bfloat16"}}},
            "models.smollm2.dtype is bfloat16 instead of float32",
            "another name under models:",
        ),
    ],
)
def test_a_changed_setting_is_named_with_its_two_values_and_how_to_keep_both(study, sections, changed, advice):
    (study / "results/analysis").mkdir()
    (study / "results/analysis/configuration.yaml").write_text(complete_text(STUDY, study))
    planned = paths(f"{RUNS}/new/train.json", f"{RUNS}/new/adapter", f"{RUNS}/untrained/merge.json")
    config = laid_over(sections)
    assert made_again(STUDY, planned[:2]) == ""
    line = made_again(config, planned)
    assert line.startswith(changed)
    assert ": 2 runs are made again; keep both with " in line
    assert line.partition("keep both with ")[2].startswith(advice)
    assert "1 run is made again" in made_again(config, planned[:2])
    assert made_again(config, []) == ""


@pytest.mark.parametrize("sections", [
    {"grid": {"seeds": [0, 1]}}, {"analysis": {"tolerance": 0.1}}, {"resources": {"minutes": 5}}, {"throughput": {"steps": 9}},
])  # fmt: skip
def test_a_setting_that_makes_no_run_again_is_not_named(study, sections):
    (study / "results/analysis").mkdir()
    (study / "results/analysis/configuration.yaml").write_text(complete_text(STUDY, study))
    assert made_again(laid_over(sections), paths(f"{RUNS}/new/train.json")) == ""


@pytest.mark.parametrize("text", [None, "not: [yaml", "- a list"])
def test_a_configuration_that_is_lost_or_damaged_names_no_setting(study, text):
    if text:
        (study / "results/analysis").mkdir()
        (study / "results/analysis/configuration.yaml").write_text(text)
    assert made_again(laid_over({"training": {"steps": 9}}), paths(f"{RUNS}/new/train.json")) == ""
