"""What one pass makes, as a study grows."""

import pytest
from sparseft import passes
from sparseft.config import Config, parse_section
from sparseft.errors import InputError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*sparsities: int) -> Config:
    grid = {
        "models": ["m"],
        "tasks": ["boolq_mini"],
        "methods": ["random"],
        "sparsities": list(sparsities),
        "modes": ["sparse_to_sparse"],
        "seeds": [0],
    }
    tasks = {"boolq_mini": {"train_examples": 4, "validation_examples": 4}}
    return parse_section(Config, {"models": {"m": {"source": "path:x"}}, "tasks": tasks, "grid": grid}, "configuration")


def passed(*sparsities: int) -> tuple[list[int], list[int]]:
    return passes.first_and_added(config(*sparsities))


def test_the_first_pass_is_the_grid_until_there_is_a_mask(folder):
    passes.begin(config(0, 50))
    assert passed(0, 50, 80) == ([0, 50, 80], [])
    passes.begin(config(0, 50, 80))
    (folder / "masks/m").mkdir()
    (folder / "masks/m/masks_sparsity50_random.pt").touch()
    assert passed(0, 50, 80, 90) == ([0, 50, 80], [90])


def test_what_is_added_or_taken_out_moves_nothing_else(folder):
    passes.begin(config(0, 50, 80))
    (folder / "masks/masks.pt").touch()
    passes.begin(config(0, 50, 80, 90))  # changes nothing
    assert passed(0, 30, 50, 80, 90) == ([0, 50, 80], [30, 90])
    assert passed(0, 80) == ([0, 80], [])


def test_another_grid_altogether_begins_anew(folder):
    passes.begin(config(0, 50))
    (folder / "masks/masks.pt").touch()
    assert passed(10, 20) == ([10, 20], [])
    passes.begin(config(10, 20))
    assert passed(10, 20, 30) == ([10, 20], [30])


@pytest.mark.parametrize(
    "content", ['{"sparsities": []}', '{"sparsities": [-5, 1000]}', '{"sparsities": [true]}', "{}"]
)
def test_a_list_that_no_study_can_have_begun_with_is_refused(folder, content):
    (folder / "masks").mkdir()
    (folder / "masks/masks.pt").touch()
    (folder / "masks/first_pass.json").write_text(content)
    with pytest.raises(InputError, match="a list of sparsities is expected; delete masks/first_pass.json"):
        passed(0, 50)
