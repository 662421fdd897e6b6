"""The whole workflow with the real cerebras-pytorch on its CPU backend.

Snakemake and all that is not training run in the default environment; its python is .venv/bin/python, or
SPARSEFT_PYTHON.
"""

import sys
from pathlib import Path

import pytest
from project import TINY_STUDY, Study, tiny_grid
from runs import CPU, DEFAULT_PYTHON
from sparseft.axes import grid
from sparseft.evaluation.throughput_record import MEASURED
from sparseft.storage.record import trained_digest

CELLS = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [0, 50]}
SETTINGS = {"python": sys.executable, "sequence_length": 128}
pytestmark = pytest.mark.skipif(not Path(DEFAULT_PYTHON).exists(), reason="needs .venv: make .venv/installed")


def test_the_whole_workflow_from_masks_to_tables(tmp_path, tiny_models):
    study = Study(tmp_path / "a folder with spaces", python=DEFAULT_PYTHON)
    asked = {"batch_sizes": [4, 2], "warmup_steps": 1, "steps": 3, "repeats": 2}
    study.configure({"llama": tiny_models["llama"]}, grid=CELLS, backend="cerebras",
                    cerebras=SETTINGS | {"target": "CPU"}, throughput=asked, **TINY_STUDY)  # fmt: skip
    study.snakemake("results/analysis/summary.csv", "throughput", "--cores", "2")
    rows = {row["run_id"]: row for row in study.table()}
    assert len(rows) == 5
    for name in rows:
        report = study.json(f"results/runs/{name}/validation_report.json")
        assert (report["passed"], report["violations"], report["layers_checked"]) == (True, 0, 14)
    trained = {name: row for name, row in rows.items() if row["mode"] != "no_finetune"}
    assert len(trained) == 3
    for name, row in trained.items():
        record = study.json(f"results/runs/{name}/train.json")
        assert (record["backend"], row["device"]) == ("cerebras", CPU)
        before = study.json(f"results/runs/{name}/before_merge.json")
        assert record["eval_loss"] == pytest.approx(before["eval_loss"], rel=2e-3)  # two transformers, bf16
        assert record["compile_hash"] is None
        if row["mode"] == "sparse_to_sparse":
            assert abs(float(row["train_merge_gap"])) < 0.02
    assert len({trained_digest(study.folder / f"results/runs/{name}/adapter") for name in trained}) == 3

    speeds = study.table(grid.ResultPaths().throughput_table)
    assert len(speeds) == 2 * len({(row["method"], row["mode"]) for row in speeds})
    assert {(row["status"], row["repeats"], row["device"]) for row in speeds} == {(MEASURED, "2", CPU)}
    assert list(study.folder.rglob("*.mdl")) == []
    # Speeds that were measured after the tables were made get into them by another command.
    assert study.planned("results/analysis/summary.csv", "throughput").keys() <= {"analyze_results"}
