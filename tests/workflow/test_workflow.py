"""The whole workflow: three architectures, three tasks, every method, three sparsities, both modes."""

import csv
import json

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.grid import Run
from sparseft.study.section import parse_section
from tiny_models import PRUNABLE_LAYERS

# Each model meets another task; every method goes through the whole workflow once, and all of them on LLaMA. That each
# method masks and merges each architecture rightly is tested in tests/pruning and tests/lora.
GRIDS = [
    tiny_grid("llama", "hellaswag_mini") | {"sparsities": [0, 50]},
    tiny_grid("mistral", "boolq_mini", ["random"]) | {"sparsities": [0, 50]},
    tiny_grid("mixtral", "gsm8k_mini", ["unstructured"]) | {"sparsities": [0, 80]},
]
RUNS = 11 + 5 + 5  # two dense; methods x sparsities x (modes, no_finetune)


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Make three studies in one folder, one after the other: summary.csv has all runs, the other tables the last study's."""
    study = Study(tmp_path_factory.mktemp("whole"))
    for cells in GRIDS:
        study.configure(tiny_models, grid=cells, **TINY_STUDY)
        study.snakemake()
    return study


def test_a_study_of_one_grid_is_whole(small_study):
    summary = rows(small_study, "summary")
    assert {row["run_id"] for row in summary} == {
        folder.name for folder in (small_study.folder / grid.ResultPaths().runs).iterdir()
    }
    assert len(summary) == 2 + 3
    for row in summary:
        assert row["status"] == "sound"
        assert proved_layers(small_study, row["run_id"]) == PRUNABLE_LAYERS["llama"]
    assert rows(small_study, "missing") == []


def rows(study: Study, table: str) -> list[dict]:
    with open(study.folder / "results/analysis" / f"{table}.csv") as file:
        return list(csv.DictReader(file))


def proved_layers(study: Study, run_id: str) -> int:
    """Return how many layers of a merged model were compared with the mask, without a violation."""
    report = study.json(f"results/runs/{run_id}/validation_report.json")
    assert (report["passed"], report["violations"]) == (True, 0)
    assert report["layers_checked"] == report["layers_expected"]
    return report["layers_checked"]


@pytest.mark.slow
def test_every_run_is_in_the_summary_and_validated(study):
    summary = rows(study, "summary")
    assert len(summary) == RUNS
    assert {(row["model"], row["task"]) for row in summary} == {(*cells["models"], *cells["tasks"]) for cells in GRIDS}
    for row in summary:
        assert row["status"] in ("sound", "outside the study")
        assert proved_layers(study, row["run_id"]) == PRUNABLE_LAYERS[row["model"]]


@pytest.mark.slow
def test_the_runs_are_exactly_those_of_the_grid(study):
    found = {folder.name for folder in (study.folder / grid.ResultPaths().runs).iterdir()}
    expected = set()
    for cells in GRIDS:
        raw = {"models": {cells["models"][0]: {"source": "path:x"}}, **TINY_STUDY, "grid": cells}
        expected |= {run.id for run in targets.runs(parse_section(Config, raw, "configuration"))}
    assert found == expected


@pytest.mark.slow
def test_every_file_of_a_run_is_there_and_no_merged_model_is_left(study):
    for folder in (study.folder / grid.ResultPaths().runs).iterdir():
        trained = (
            {"train.json", "adapter", "before_merge.json"} if Run.parse(folder.name).mode != "no_finetune" else set()
        )
        names = {path.name for path in folder.iterdir()}
        assert names == {"merge.json", "validation_report.json", "evaluation.json"} | trained


@pytest.mark.slow
def test_the_analysis_is_whole(study):
    names = {path.name for path in (study.folder / grid.ResultPaths().analysis).iterdir()}
    assert names >= {*grid.TABLES, *grid.PAGES, grid.REPORT, "plots"}
    assert rows(study, "missing") == []
    figures = {path.stem for path in (study.folder / grid.ResultPaths().analysis / "plots").glob("*.png")}
    assert "gsm8k_mini_exact_match_vs_sparsity" in figures
    assert (study.folder / grid.ResultPaths().analysis / grid.REPORT).read_text().count("<img ") == len(figures)


@pytest.mark.slow
def test_only_the_runs_of_the_last_configuration_are_in_the_aggregates(study):
    last = GRIDS[-1]["models"][0]
    assert {row["model"] for row in rows(study, "summary") if row["status"] == "sound"} == {last}
    for table in ("grouped_summary", "sparsity_vs_performance", "comparisons"):
        assert {row["model"] for row in rows(study, table)} == {last}


@pytest.mark.slow
def test_the_two_modes_give_different_adapters_and_different_numbers(study):
    hashes = {row["run_id"]: row for row in rows(study, "settings")}
    summary = {row["run_id"]: row | hashes[row["run_id"]] for row in rows(study, "summary")}
    pairs = [(row, summary[key.replace("to_dense", "to_sparse")]) for key, row in summary.items()
             if row["mode"] == "sparse_to_dense" and row["method"] != "dense"]  # fmt: skip
    assert len(pairs) == 3 + 1 + 1  # methods
    for dense, sparse in pairs:
        assert dense["sha256.adapter"] != sparse["sha256.adapter"]
        if dense["method"] == "structured":  # pruned channels have no gradient until their values have: after 3 steps
            continue  # the kept weights may be the same
        assert dense["sha256.merged"] != sparse["sha256.merged"]
        assert dense["eval_loss"] != sparse["eval_loss"]


@pytest.mark.slow
def test_training_changes_the_merged_model(study):
    for row in rows(study, "settings"):
        if row["mode"] != "no_finetune" and row["method"] != "dense":
            pruned = Run.parse(row["run_id"])
            twin = Run(pruned.model, pruned.task, pruned.method, pruned.sparsity, "no_finetune", 0)
            merged = json.loads((study.folder / grid.fill(grid.ResultPaths().run, twin) / "merge.json").read_text())
            assert row["sha256.merged"] not in json.dumps(merged["outputs"])


@pytest.mark.slow
def test_only_sparse_to_dense_has_a_train_merge_gap(study):
    gaps = {mode: [abs(float(row["train_merge_gap"])) for row in rows(study, "summary")
                   if row["mode"] == mode and row["method"] != "dense"] for mode in grid.TRAINED_MODES}  # fmt: skip
    assert max(gaps["sparse_to_sparse"]) < 0.02  # Mixtral's fused experts round otherwise
    assert sorted(gaps["sparse_to_sparse"])[len(gaps["sparse_to_sparse"]) // 2] == 0  # the others' bits are the same
    assert max(gaps["sparse_to_dense"]) > 0.1
