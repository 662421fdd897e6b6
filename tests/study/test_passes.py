"""Which masks one pass makes, as a study grows, and where its files lie."""

from pathlib import Path

import pytest
from project import laid_over
from sparseft.study.passes import pass_files
from sparseft.study.targets import added_sparsities


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def added(*sparsities: int, models: tuple[str, ...] = ("m",), methods: tuple[str, ...] = ("random",)) -> list[int]:
    """Return the sparsities of the grid whose masks are made one by one."""
    grid = {"models": list(models), "methods": list(methods), "tasks": ["boolq_mini"], "sparsities": list(sparsities)}
    return added_sparsities(laid_over({"models": {name: {"source": "path:x"} for name in models}, "grid": grid}))


def make(*sparsities: int, folder: str = "masks/m", method: str = "random") -> None:
    """Leave the masks of a pass."""
    for file in pass_files(folder, method, [f"{percent:02d}" for percent in sparsities]).masks:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_what_a_model_and_a_method_lack_is_made_alone():
    assert added(0, 50, 80) == []
    make(0, 50)
    assert added(0, 50, 80, 90) == [80, 90]
    make(80)
    assert added(0, 50, 80) == added(0, 80) == []
    assert added(10, 20) == []


def test_models_and_methods_count_for_themselves():
    make(0, 50)
    assert added(0, 50, 80, models=("other",)) == added(0, 50, 80, methods=("structured",)) == []
    make(0, 50, 80, folder="masks/other")
    assert added(0, 50, 80, models=("m", "other")) == [80]


def test_the_masks_of_a_task_count_for_its_methods_and_updated_weights_for_nothing():
    make(50, folder="masks/m/boolq_mini", method="unstructured_sparsegpt")
    assert added(50, 70, methods=("unstructured_sparsegpt", "unstructured_taylor")) == []
    make(50, folder="masks/m/boolq_mini", method="unstructured_taylor")
    assert added(50, 70, methods=("unstructured_sparsegpt", "unstructured_taylor")) == [70]


def test_an_added_sparsity_is_in_the_name_of_its_report():
    together, one = (
        pass_files("masks/m", "random", ["50", "80"]),
        pass_files("masks/m", "random", ["50"], is_added=True),
    )
    assert [path.name for path in together.masks] == ["masks_sparsity50_random.pt", "masks_sparsity80_random.pt"]
    assert (together.report, one.report) == (
        Path("masks/m/report_random.json"),
        Path("masks/m/report_random_sparsity50.json"),
    )
    assert Path("masks/m/plots/layers_random_sparsity50.png") in one.outputs()["plots"]
