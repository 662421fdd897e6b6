"""What one pass makes, as a study grows."""

from pathlib import Path

import pytest
from sparseft.errors import InputError
from sparseft.study import passes
from sparseft.study.config import Config
from sparseft.study.section import parse_section


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*sparsities: int, models: tuple[str, ...] = ("m",), methods: tuple[str, ...] = ("random",)) -> Config:
    grid = {
        "models": list(models),
        "tasks": ["boolq_mini"],
        "methods": list(methods),
        "sparsities": list(sparsities),
        "modes": ["sparse_to_sparse"],
        "seeds": [0],
    }
    sections = {
        "models": {name: {"source": "path:x"} for name in ("m", "other")},
        "tasks": {"boolq_mini": {"train_examples": 4, "validation_examples": 4}},
        "grid": grid,
    }
    return parse_section(Config, sections, "configuration")


def passed(*sparsities: int, **axes: tuple[str, ...]) -> tuple[list[int], list[int]]:
    return passes.first_and_added(config(*sparsities, **axes))


def make(*sparsities: int, folder: str = "masks/m", method: str = "random") -> None:
    """Leave what a pass leaves: the masks."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for percent in sparsities:
        Path(folder, f"masks_sparsity{percent:02d}_{method}.pt").touch()


def make_added(percent: int) -> None:
    """Leave what a sparsity's own pass leaves: the mask and its report."""
    make(percent)
    Path(f"masks/m/report_random_sparsity{percent:02d}.json").touch()


def test_the_first_pass_is_the_grid_until_there_is_a_mask():
    assert passed(0, 50, 80) == ([0, 50, 80], [])
    make(0, 50)
    assert passed(0, 50, 80, 90) == ([0, 50], [80, 90])


def test_what_is_added_or_taken_out_moves_nothing_else():
    make(0, 50, 80)
    make_added(90)
    assert passed(0, 30, 50, 80, 90) == ([0, 50, 80], [30, 90])
    assert passed(0, 80) == ([0, 80], [])


def test_a_mask_that_is_lost_is_made_by_a_pass_of_its_own():
    make(0, 80)
    assert passed(0, 50, 80) == ([0, 80], [50])


def test_a_first_pass_that_was_cut_off_is_made_again_without_what_was_added():
    make_added(80)
    assert passed(0, 50, 80) == ([0, 50], [80])


def test_another_grid_altogether_begins_anew():
    make(0, 50)
    assert passed(10, 20) == ([10, 20], [])


def test_the_masks_of_another_model_or_method_decide_nothing():
    make(0, 50)
    assert passed(0, 50, 80, models=("other",)) == ([0, 50, 80], [])
    assert passed(0, 50, 80, methods=("structured",)) == ([0, 50, 80], [])


def test_two_models_that_began_apart_keep_what_they_have():
    make(0, 50)
    make(0, 50, 80, folder="masks/other")
    assert passed(0, 50, 80, models=("m", "other")) == ([0, 50], [80])


def test_the_masks_of_a_task_count_for_its_methods():
    make(0, 50, folder="masks/m/boolq_mini", method="unstructured_taylor")
    assert passed(0, 50, 80, methods=("unstructured_taylor",)) == ([0, 50], [80])


def test_a_job_on_another_machine_makes_what_its_command_planned():
    passes.record([0, 50])
    make(0)  # another job has begun
    assert passes.recorded(config(0, 50, 80)) == ([0, 50], [80])


@pytest.mark.parametrize("content", ['{"sparsities": [-5, 1000]}', '{"sparsities": [true]}', "{}"])
def test_a_record_that_no_command_can_have_written_is_refused(folder, content):
    (folder / "masks").mkdir()
    (folder / "masks/first_pass.json").write_text(content)
    with pytest.raises(InputError, match=r"masks/first_pass\.json"):
        passes.recorded(config(0, 50))


def test_the_masks_of_a_method_that_updates_weights_are_in_no_pass():
    make(50, folder="masks/m/boolq_mini", method="unstructured_sparsegpt")
    assert passed(50, 70, methods=("unstructured_sparsegpt", "random")) == ([50, 70], [])
    make(50)
    assert passed(50, 70, methods=("unstructured_sparsegpt", "random")) == ([50], [70])
