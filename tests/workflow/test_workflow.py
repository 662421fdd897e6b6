"""The whole workflow."""

import pytest
from project import Study, tiny_grid
from sparseft.axes import grid
from sparseft.evaluation import throughput_record

PATHS = grid.ResultPaths()


def test_a_study_of_one_grid_is_whole_and_its_analysis_too(small_study):
    summary = small_study.table()
    assert len(summary) == 2 + 3
    assert {row["run_id"] for row in summary} == {folder.name for folder in (small_study.folder / PATHS.runs).iterdir()}
    assert {row["status"] for row in summary} == {"sound"}
    assert small_study.table(f"{PATHS.analysis}/missing.csv") == []
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
    asked = {"batch_sizes": [2], "sparsities": [0, 50], "modes": ["sparse_to_sparse"], "sequence_length": 64,
             "warmup_steps": 1, "steps": 1, "repeats": 2, "memory_mb": 2000}  # fmt: skip
    cells = tiny_grid("llama", "boolq_mini", ["unstructured"])
    study = Study(tmp_path).configure({"llama": tiny_models["llama"]}, grid=cells, throughput=asked)
    study.snakemake("throughput")
    rows = study.table(PATHS.throughput_table)
    assert [(row["method"], row["batch_size"], row["status"], row["repeats"]) for row in rows] == [
        (method, "2", throughput_record.MEASURED, "2") for method in ("dense", "unstructured")
    ]
    for row in rows:
        assert (row["memory_limit_bytes"], row["tokens_per_sample_padded"]) == ("2000000000", "64")
        assert row["device"].startswith("CPU: ")
    plots = {path.name for path in (study.folder / PATHS.throughput_plots).iterdir()}
    assert plots >= {f"llama_boolq_mini_throughput_vs_batch_size.{kind}" for kind in ("png", "svg")}
    assert study.planned("throughput") == {}
