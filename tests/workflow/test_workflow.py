"""The whole workflow. That each method masks and merges each architecture rightly is tested in tests/pruning and tests/lora."""

import csv

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.study import grid
from sparseft.study.grid import Run
from tiny_models import PRUNABLE_LAYERS

PATHS = grid.ResultPaths()
# Another architecture and a generated answer: two dense runs, and two of a random mask.
MIXTRAL = tiny_grid("mixtral", "gsm8k_mini", ["random"]) | {"sparsities": [0, 80], "modes": ["sparse_to_sparse"]}


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory, tiny_models) -> Study:
    """A study that keeps no merged model."""
    study = Study(tmp_path_factory.mktemp("mixtral"))
    study.configure({"mixtral": tiny_models["mixtral"]}, grid=MIXTRAL, **TINY_STUDY)
    study.snakemake()
    return study


def rows(study: Study, table: str) -> dict[str, dict]:
    """Return the rows of a table by their run."""
    with open(study.folder / PATHS.analysis / f"{table}.csv") as file:
        return {row["run_id"]: row for row in csv.DictReader(file)}


def check_whole(study: Study, model: str, number: int) -> None:
    """Check that every run of a study is there, sound, and proved in every layer."""
    summary = rows(study, "summary")
    assert len(summary) == number
    assert set(summary) == {folder.name for folder in (study.folder / PATHS.runs).iterdir()}
    assert {row["status"] for row in summary.values()} == {"sound"}
    assert rows(study, "missing") == {}
    for run_id in summary:
        report = study.json(f"{PATHS.runs}/{run_id}/validation_report.json")
        assert (report["passed"], report["violations"]) == (True, 0)
        assert report["layers_checked"] == report["layers_expected"] == PRUNABLE_LAYERS[model]


def test_a_study_of_one_grid_is_whole_and_its_analysis_too(small_study):
    check_whole(small_study, "llama", 2 + 3)
    analysis = small_study.folder / PATHS.analysis
    assert {path.name for path in analysis.iterdir()} >= {*grid.TABLES, *grid.PAGES, grid.REPORT, grid.FINDINGS}
    figures = {path.stem for path in (analysis / "plots").glob("*.png")}
    assert figures
    assert (analysis / grid.REPORT).read_text().count("<img ") == len(figures)


def test_the_two_modes_give_different_adapters_and_only_sparse_to_dense_has_a_gap(small_study):
    summary = rows(small_study, "summary")
    dense, sparse = (
        Run("llama", "boolq_mini", "unstructured", 50, mode, 0).id for mode in ("sparse_to_dense", "sparse_to_sparse")
    )
    settings = rows(small_study, "settings")
    for name in ("sha256.adapter", "sha256.merged"):
        assert len({row[name] for row in settings.values() if row.get(name)}) >= 2
        assert settings[dense][name] != settings[sparse][name]
    gaps = [abs(float(summary[run]["train_merge_gap"])) for run in (dense, sparse)]
    assert gaps[0] > 0.1
    assert gaps[1] == 0


@pytest.mark.slow
def test_a_study_of_another_architecture_is_whole_and_leaves_no_merged_model(mixtral):
    check_whole(mixtral, "mixtral", 2 + 2)
    for folder in (mixtral.folder / PATHS.runs).iterdir():
        is_trained = Run.parse(folder.name).mode != grid.NO_FINETUNE
        trained = {"train.json", "adapter", "before_merge.json"} if is_trained else set()
        names = {path.name for path in folder.iterdir()}
        assert names == {"merge.json", "validation_report.json", "evaluation.json"} | trained
