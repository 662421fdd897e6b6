"""The whole workflow. That each method masks and merges each architecture rightly is tested in tests/pruning and
tests/lora."""

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.records import throughput_record
from sparseft.study import grid
from tiny_models import PRUNABLE_LAYERS

PATHS = grid.ResultPaths()


def rows(study: Study, table: str) -> dict[str, dict]:
    """Return the rows of a table by their run."""
    return {row["run_id"]: row for row in study.table(f"{PATHS.analysis}/{table}.csv")}


def test_a_study_of_one_grid_is_whole_and_its_analysis_too(small_study):
    summary = rows(small_study, "summary")
    assert len(summary) == 2 + 3
    assert set(summary) == {folder.name for folder in (small_study.folder / PATHS.runs).iterdir()}
    assert {row["status"] for row in summary.values()} == {"sound"}
    assert rows(small_study, "missing") == {}
    base = Checkpoint(small_study.folder / "models/llama").digest
    for run_id in summary:
        report = small_study.json(f"{PATHS.runs}/{run_id}/validation_report.json")
        assert (report["passed"], report["violations"]) == (True, 0)
        assert report["layers_checked"] == report["layers_expected"] == PRUNABLE_LAYERS["llama"]
        assert (report["tolerance"], report["inputs"]["base"]) == (0, base)
    analysis = small_study.folder / PATHS.analysis
    assert {path.name for path in analysis.iterdir()} >= {*grid.TABLES, *grid.PAGES, grid.REPORT, grid.FINDINGS}
    figures = {path.stem for path in (analysis / "plots").glob("*.png")}
    assert figures
    assert (analysis / grid.REPORT).read_text().count("<img ") == len(figures)


def test_snakemake_s_report_has_the_page_the_figures_and_the_tables(own_study):
    own_study.snakemake("--report", "report.html")
    report = (own_study.folder / "report.html").read_text()
    figures = {path.name for path in (own_study.folder / PATHS.analysis / "plots").glob("*.svg")}
    assert figures
    for name in (grid.REPORT, *grid.PAGES, *grid.TABLES, *figures):
        assert f"{name}" in report.replace("\\/", "/"), name


@pytest.mark.slow
def test_the_stage_measures_dense_and_pruned_and_makes_the_table_and_its_plot(tmp_path, tiny_models):
    study = Study(tmp_path / "a folder with spaces")
    asked = {"batch_sizes": [2], "sparsities": [0, 50], "modes": ["sparse_to_sparse"], "sequence_length": 64,
             "warmup_steps": 1, "steps": 1, "repeats": 2, "memory_mb": 2000}  # fmt: skip
    cells = tiny_grid("llama", "boolq_mini", ["unstructured"])
    study.configure({"llama": tiny_models["llama"]}, grid=cells, throughput=asked, **TINY_STUDY)
    study.snakemake("throughput")
    rows = study.table(PATHS.throughput_table)
    assert [(row["method"], row["batch_size"], row["status"], row["repeats"]) for row in rows] == [
        (method, "2", throughput_record.MEASURED, "2") for method in ("dense", "unstructured")
    ]
    for row in rows:
        assert row["device"].startswith("CPU: ")
        assert row["memory_limit_bytes"] == "2000000000"
        low, mean, high = (float(row[f"samples_per_second{end}"]) for end in ("_low", "", "_high"))
        assert low < mean < high
        assert row["tokens_per_sample"] == row["tokens_per_sample_padded"] == "64"
        assert float(row["tokens_per_second"]) == pytest.approx(64 * mean)
    plots = {path.name for path in (study.folder / PATHS.throughput_plots).iterdir()}
    assert plots >= {f"llama_boolq_mini_throughput_vs_batch_size.{kind}" for kind in ("png", "svg")}
    assert study.planned("throughput") == {}
