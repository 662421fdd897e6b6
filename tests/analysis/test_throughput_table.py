"""The measured batch sizes as a table and as figures."""

import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot
from project import succeed, tree
from sparseft.analysis.figures import write_throughput_figures
from sparseft.analysis.throughput import COLUMNS, throughput_table
from sparseft.evaluation.throughput_record import MEASURED, OUT_OF_MEMORY, SKIPPED, ThroughputRecord, read_measurements
from sparseft.storage.record_file import write
from storage.sound_records import CPU, measured

DENSE = "m-t-dense-sparsity00-sparse_to_dense"
SPARSE = "m-t-unstructured-sparsity50-sparse_to_sparse"
# Student's t, two degrees of freedom, 97.5 %: any table.
T_OF_TWO = 4.30265273


def write_cell(folder: Path, name: str, repeats: int = 3) -> Path:
    """Write a measurement, and return its path."""
    write(folder / f"{name}.json", ThroughputRecord.model_validate(measured(name, repeats)))
    return folder / f"{name}.json"


def table(*paths: Path) -> pd.DataFrame:
    return throughput_table(read_measurements(paths))


def test_a_row_has_the_mean_with_student_s_interval_over_the_repeats(tmp_path):
    row = table(write_cell(tmp_path, SPARSE)).set_index("batch_size").loc[4]
    # 4, 8 and 12 samples/s: mean 8, standard deviation 4.
    half = T_OF_TWO * 4 / math.sqrt(3)
    ends = [f"samples_per_second{end}" for end in ("", "_low", "_high")]
    assert row[ends].tolist() == pytest.approx([8, 8 - half, 8 + half])
    assert (row["tokens_per_second"], row["tokens_per_second_high"]) == pytest.approx((80, 80 + 10 * half))
    assert (row["tokens_per_sample"], row["tokens_per_sample_padded"]) == (10, 15)
    assert (row["repeats"], row["peak_memory_bytes"], row["cpu_share"]) == (3, 1_200_000_000, 0.5)


def test_every_batch_size_has_a_row_that_says_what_became_of_it(tmp_path):
    rows = table(*(write_cell(tmp_path, name) for name in (SPARSE, DENSE)))
    assert list(rows) == COLUMNS
    assert list(rows["batch_size"]) == 2 * [4, 8, 16, 32]
    assert list(rows["status"]) == 2 * [MEASURED, MEASURED, OUT_OF_MEMORY, SKIPPED]
    assert list(rows["method"].unique()) == ["dense", "unstructured"]
    assert rows.loc[rows["batch_size"] == 16, "reason"].tolist() == ["killed", "killed"]


def test_the_figure_has_a_line_per_named_training(tmp_path):
    """One repeat of size b has a speed of b samples/s, and three have 2 b."""
    names = {f"{SPARSE}-{training}": repeats for training, repeats in (("large", 3), ("small", 1))}
    write_throughput_figures(tmp_path, table(*(write_cell(tmp_path, *cell) for cell in names.items())))
    lines = [line.get_xydata().tolist() for line in pyplot.gcf().axes[0].get_lines() if len(line.get_xdata())]
    assert lines == [[[4, 8], [8, 16]], [[4, 4], [8, 8]]]


@pytest.mark.process
def test_the_script_writes_the_table_and_a_figure_a_model_and_task_twice_the_same(tmp_path):
    paths = [write_cell(tmp_path, name) for name in (DENSE, SPARSE, SPARSE.replace("m-", "n-"))]
    written = []
    for _ in range(2):
        succeed("analyze_throughput.py", records=paths, table=tmp_path / "out/t.csv", plots=tmp_path / "out/plots")
        written.append(tree(tmp_path / "out"))
    names = {f"plots/{model}_t_throughput_vs_batch_size.{kind}" for model in "mn" for kind in ("png", "svg")}
    assert written[0].keys() == names | {"t.csv"}
    assert written[0] == written[1]
    assert CPU in (tmp_path / "out/t.csv").read_text()
