"""The measured batch sizes as a table and as figures."""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sparseft import grid
from sparseft.analysis import tables
from sparseft.analysis.records import read_measurement
from sparseft.errors import InputError
from sparseft.files import write_json

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/analyze_throughput.py"
CELLS = [
    "m-t-dense-sparsity00-sparse_to_dense",
    "m-t-unstructured-sparsity50-sparse_to_dense",
    "m-t-unstructured-sparsity50-sparse_to_sparse",
]
T_OF_TWO = 4.30265273  # Student's t, two degrees of freedom, 97.5 %: any table


def write_cell(folder: Path, name: str, *, repeats: int = 3, **changes: object) -> Path:
    """A measurement of batch sizes 4 and 8; 16 does not fit, 32 was not tried. Repeat r runs at (r + 1) * size samples/s."""
    batches = [{"batch_size": size, "status": status, "reason": reason, "repeats": []}
               for size, status, reason in ((16, grid.OUT_OF_MEMORY, "killed"), (32, grid.SKIPPED, None))]  # fmt: skip
    for size in (4, 8):
        measured = [
            {"seconds": 2 / (repeat + 1), "samples": 2 * size, "tokens": 20 * size, "padded_tokens": 30 * size}
            | {"peak_memory_bytes": 10**9 + repeat * 10**8, "cpu_share": 1 - repeat / 4, "dtype": "bfloat16"}
            for repeat in range(repeats)
        ]
        batches.append({"batch_size": size, "status": grid.MEASURED, "reason": None, "repeats": measured})
    content = {
        **{"cell": name, "device": "CPU: AMD EPYC, 1 thread", "threads": 1, "processes": 1, "gradient": "exact"},
        **{"sequence_length": None, "warmup_steps": 1, "steps": 2, "memory_limit_bytes": 2 * 10**9, "batches": batches},
        **changes,
    }
    write_json(folder / f"{name}.json", content)
    return folder / f"{name}.json"


def table(*paths: Path) -> pd.DataFrame:
    return tables.throughput(map(read_measurement, paths))


def test_the_interval_is_student_s_over_the_repeats(tmp_path):
    row = table(write_cell(tmp_path, CELLS[1])).set_index("batch_size").loc[4]
    # 4, 8 and 12 samples/s: mean 8, standard deviation 4.
    half = T_OF_TWO * 4 / math.sqrt(3)
    assert row["samples_per_second_mean"] == 8
    assert row["samples_per_second_low"] == pytest.approx(8 - half)
    assert row["samples_per_second_high"] == pytest.approx(8 + half)
    assert (row["tokens_per_second_mean"], row["tokens_per_second_high"]) == pytest.approx((80, 80 + 10 * half))
    assert (row["tokens_per_sample"], row["tokens_per_sample_padded"]) == (10, 15)
    assert (row["n"], row["peak_memory_bytes"], row["cpu_share"]) == (3, 1_200_000_000, 0.5)


def test_one_repeat_has_no_interval(tmp_path):
    row = table(write_cell(tmp_path, CELLS[1], repeats=1)).iloc[0]
    assert (row["n"], row["samples_per_second_mean"]) == (1, 4)
    assert pd.isna(row["samples_per_second_low"])
    assert pd.isna(row["samples_per_second_high"])


def test_every_batch_size_has_a_row_that_says_on_what_and_what_became_of_it(tmp_path):
    rows = table(*(write_cell(tmp_path, name) for name in reversed(CELLS)))
    assert list(rows["batch_size"]) == 3 * [4, 8, 16, 32]
    assert list(rows["status"]) == 3 * [grid.MEASURED, grid.MEASURED, grid.OUT_OF_MEMORY, grid.SKIPPED]
    assert list(rows["method"].unique()) == ["dense", "unstructured"]
    assert set(rows["device"]) == {"CPU: AMD EPYC, 1 thread"}
    assert set(rows["memory_limit_bytes"]) == {2 * 10**9}
    assert list(rows["reason"].dropna()) == 3 * ["killed"]
    assert rows["samples_per_second_mean"].isna().sum() == 6


def test_a_file_that_is_no_measurement_or_another_cell_s_is_refused(tmp_path):
    path = write_cell(tmp_path, CELLS[0])
    path.rename(tmp_path / f"{CELLS[1]}.json")
    with pytest.raises(InputError, match=f"belongs to cell {CELLS[0]}"):
        table(tmp_path / f"{CELLS[1]}.json")
    with pytest.raises(InputError, match="batches"):
        table(write_cell(tmp_path, CELLS[0], batches=[]))


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_script_writes_the_table_and_a_figure_a_model_and_task_twice_the_same(tmp_path, repeats):
    paths = [write_cell(tmp_path, name, repeats=repeats) for name in [*CELLS, CELLS[0].replace("m-", "n-")]]
    outputs = ["--table", tmp_path / "out/t.csv", "--plots", tmp_path / "out/plots"]
    command = [sys.executable, SCRIPT, "--records", *paths, *outputs]
    contents = []
    for _ in range(2):
        subprocess.run(command, check=True)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()})
    names = {f"{model}_t_throughput_vs_batch_size.{kind}" for model in "mn" for kind in ("png", "svg")}
    assert contents[0].keys() == names | {"t.csv"}
    assert contents[0] == contents[1]
    assert "CPU: AMD EPYC, 1 thread" in contents[0]["t.csv"].decode()
