"""The stage throughput: speed against the batch size, measured only if it is the target."""

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.records import throughput_record
from sparseft.study import grid


@pytest.mark.slow
def test_the_stage_measures_dense_and_pruned_and_makes_the_table(tmp_path, tiny_models):
    study = Study(tmp_path / "a folder with spaces")
    asked = {"batch_sizes": [2], "sparsities": [0, 50], "modes": ["sparse_to_sparse"], "sequence_length": 64,
             "warmup_steps": 1, "steps": 1, "repeats": 2, "memory_mb": 2000}  # fmt: skip
    cells = tiny_grid("llama", "boolq_mini", ["unstructured"])
    study.configure({"llama": tiny_models["llama"]}, grid=cells, throughput=asked, **TINY_STUDY)
    study.snakemake("throughput")
    rows = study.table(grid.ResultPaths().throughput_table)
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
    assert study.planned("throughput") == {}
