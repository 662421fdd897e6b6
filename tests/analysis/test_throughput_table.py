"""The measured batch sizes as a table and as figures."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from project import job_client
from sparseft.analysis.records import read_measurements
from sparseft.analysis.throughput_table import throughput_table
from sparseft.errors import InputError
from sparseft.storage.ownership import MARKER
from sparseft.storage.record import write_record
from sparseft.study import grid

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/analyze_throughput.py"
CELLS = [
    "m-t-dense-sparsity00-sparse_to_dense",
    "m-t-unstructured-sparsity50-sparse_to_dense",
    "m-t-unstructured-sparsity50-sparse_to_sparse",
]
T_OF_TWO = 4.30265273  # Student's t, two degrees of freedom, 97.5 %: any table


def write_cell(folder: Path, name: str, *, repeats: int = 3, **changes: object) -> Path:
    """Write a measurement of batch sizes 4 and 8, and return its path. 16 does not fit, and 32 was not tried.

    Repeat r has a speed of (r + 1) * size samples per second."""
    batches = []
    for size in (4, 8):
        measured = [
            {"seconds": 2 / (repeat + 1), "samples": 2 * size, "tokens": 20 * size, "padded_tokens": 30 * size}
            | {"peak_memory_bytes": 10**9 + repeat * 10**8, "cpu_share": 1 - repeat / 4, "dtype": "bfloat16"}
            for repeat in range(repeats)
        ]
        batches.append({"batch_size": size, "status": grid.MEASURED, "reason": None, "repeats": measured})
    batches += [{"batch_size": size, "status": status, "reason": reason, "repeats": []}
                for size, status, reason in ((16, grid.OUT_OF_MEMORY, "killed"), (32, grid.SKIPPED, None))]  # fmt: skip
    content = {
        **{"cell": name, "device": "CPU: AMD EPYC, 1 thread", "threads": 1, "processes": 1, "gradient": "exact"},
        **{"sequence_length": None, "warmup_steps": 1, "steps": 2, "repeats": repeats},
        **{"memory_limit_bytes": 2 * 10**9, "memory_limit_kind": "private", "peak_memory_kind": "resident"},
        **{"batch_sizes": [16, 4, 8, 32], "batches": batches},
        **changes,
    }
    write_record(folder / f"{name}.json", content)
    return folder / f"{name}.json"


def table(*paths: Path) -> pd.DataFrame:
    return throughput_table(read_measurements(paths))


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
    assert set(zip(rows["peak_memory_kind"], rows["memory_limit_kind"], strict=True)) == {("resident", "private")}
    assert list(rows["reason"].dropna()) == 3 * ["killed"]
    assert rows["samples_per_second_mean"].isna().sum() == 6


def test_a_file_that_is_no_measurement_or_another_cell_s_is_refused(tmp_path):
    path = write_cell(tmp_path, CELLS[0])
    path.rename(tmp_path / f"{CELLS[1]}.json")
    with pytest.raises(InputError, match=f"belongs to cell {CELLS[0]}"):
        table(tmp_path / f"{CELLS[1]}.json")
    with pytest.raises(InputError, match="batches"):
        table(write_cell(tmp_path, CELLS[0], batches=[]))
    with pytest.raises(InputError, match="memory ended without a limit"):
        table(write_cell(tmp_path, CELLS[0], memory_limit_bytes=None, memory_limit_kind=None))


@pytest.mark.parametrize(("place", "value", "fault"), [
    ("batches.1.batch_size", 4, "batch sizes [4, 4, 16, 32], [16, 4, 8, 32] were asked for"),
    ("batch_sizes", [4, 8, 16, 32, 64], "batch sizes [4, 8, 16, 32], [4, 8, 16, 32, 64] were asked for"),
    ("repeats", 2, "batch size 4: measured, with 3 repeats"),
    ("batches.1.repeats", [], "batch size 8: measured, with 0 repeats"),
    ("batches.1.status", grid.OUT_OF_MEMORY, "memory ends once, and no larger batch is measured"),
    ("batches.0.status", grid.SKIPPED, "memory ends once, and no larger batch is measured"),
    ("batches.2.status", grid.SKIPPED, "memory ends once, and no larger batch is measured"),
    ("batches.0.status", "lost", "batches 0 status input should be 'measured', 'out of memory' or 'skipped"),
    ("batches.0.repeats.0.samples", 9, "batch size 4: a repeat of other than 2 steps"),
    ("batches.0.repeats.0.tokens", 121, "batches 0 repeats 0 121 tokens, 120 with padding"),
    ("batches.0.repeats.0.seconds", -1.0, "batches 0 repeats 0 seconds input should be greater than 0"),
    ("batches.0.repeats.0.cpu_share", -0.1, "batches 0 repeats 0 cpu_share input should be greater than or equal to 0"),
    ("batches.0.repeats.0.dtype", "float32", "repeats in several dtypes"),
    ("memory_limit_kind", None, "a memory limit without its kind, or a kind without its bytes"),
    ("peak_memory_kind", None, "peak_memory_kind input should be a valid string"),
])  # fmt: skip
def test_a_measurement_that_contradicts_itself_is_refused(tmp_path, place, value, fault):
    path = write_cell(tmp_path, CELLS[1])
    content = piece = json.loads(path.read_text())
    *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in parents:
        piece = piece[part]
    piece[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        table(path)
    assert str(error.value).startswith(f"{path.name}: {fault}")


def test_a_cell_that_is_given_twice_is_refused(tmp_path):
    paths = [write_cell(tmp_path / folder, CELLS[1]) for folder in "ab"]
    with pytest.raises(InputError, match=f"^{paths[1]}: the cell of {paths[0]} again; give one of them"):
        table(*paths)


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_script_writes_the_table_and_a_figure_a_model_and_task_twice_the_same(tmp_path, repeats):
    paths = [write_cell(tmp_path, name, repeats=repeats) for name in [*CELLS, CELLS[0].replace("m-", "n-")]]
    outputs = ["--table", tmp_path / "out/t.csv", "--plots", tmp_path / "out/plots"]
    command = [*job_client(sys.executable), SCRIPT, "--records", *paths, *outputs]
    contents = []
    for _ in range(2):
        subprocess.run(command, check=True)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()})
    names = {f"{model}_t_throughput_vs_batch_size.{kind}" for model in "mn" for kind in ("png", "svg")}
    assert contents[0].keys() == names | {"t.csv", MARKER}
    assert contents[0] == contents[1]
    assert "CPU: AMD EPYC, 1 thread" in contents[0]["t.csv"].decode()
