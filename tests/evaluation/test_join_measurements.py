"""A cell's measurements, made one by one, as one file: what the analysis reads of it, and what is not joined."""

import re
from pathlib import Path

import pytest
from project import refused, succeed
from sparseft.errors import InputError
from sparseft.evaluation.throughput_record import MeasurementRecord, read_measurements
from sparseft.records.record_file import write
from sparseft.training.settings import MEASURED_KEYS, Training

CELL = "m-t-unstructured-sparsity50-sparse_to_sparse"
# The digests of what was measured.
INPUTS = {"model": "a", "mask": "b", "train": "c"}


def write_repeat(folder: Path, size: int, seed: int, **changes: object) -> Path:
    """What measure_cerebras.py writes: 100 steps at 10 * size + seed samples a second."""
    samples = 100 * size
    training = Training().model_dump(exclude=MEASURED_KEYS)
    content = {
        **training,
        **{"cell": CELL, "backend": "cerebras", "device": "CSX", "threads": 8, "processes": 2},
        **{"sequence_length": None, "warmup_steps": 10, "steps": 100, "cerebras": {"sequence_length": 512}},
        **{"peak_memory_kind": "resident, on the user node", "versions": {"torch": "2.4.0"}, "inputs": INPUTS},
        **{"batch_size": size, "seed": seed, "micro_batch_size": "auto", "compile_hash": f"hash of {size}"},
        "repeat": {"seconds": samples / (10 * size + seed), "samples": samples, "tokens": 20 * samples,
                   "dtype": "cbfloat16",
                   "padded_tokens": 512 * samples, "peak_memory_bytes": 10**9, "cpu_share": None},
        **changes,
    }  # fmt: skip
    path = folder / f"{size}-{seed}.json"
    write(path, MeasurementRecord.model_validate(content))
    return path


@pytest.fixture
def four(tmp_path) -> list[Path]:
    """Return the files of two repeats of two batch sizes."""
    return [write_repeat(tmp_path, size, seed) for size in (64, 8) for seed in (0, 2)]


def test_a_cell_s_file_is_one_that_the_analysis_reads(tmp_path, four):
    path = tmp_path / f"{CELL}.json"
    succeed("join_measurements.py", records=four, output=path)
    (measured,) = read_measurements([path])
    assert [batch.batch_size for batch in measured.batches] == [8, 64]
    speeds = [[repeat.samples / repeat.seconds for repeat in batch.repeats] for batch in measured.batches]
    assert speeds == [pytest.approx([80, 82]), pytest.approx([640, 642])]
    hashes = [repeat.compile_hash for batch in measured.batches for repeat in batch.repeats]
    assert hashes == ["hash of 8", "hash of 8", "hash of 64", "hash of 64"]
    assert (measured.device, measured.processes, measured.steps, measured.repeats) == ("CSX", 2, 100, 2)
    assert (measured.memory_limit_bytes, measured.memory_limit_kind, measured.sequence_length) == (None, None, None)
    with pytest.raises(InputError, match="again"):
        read_measurements([path, path])
    other = path.rename(tmp_path / f"{CELL.replace('m-t', 'm-u')}.json")
    with pytest.raises(InputError, match=f"belongs to cell {CELL}"):
        read_measurements([other])


@pytest.mark.parametrize("condition", [
    {"device": "CSX software backend on CPU"}, {"versions": {"torch": "2.5.0"}}, {"inputs": INPUTS | {"model": "b"}},
    {"lora_r": 4},
])  # fmt: skip
def test_what_was_measured_under_other_conditions_is_not_joined(tmp_path, four, condition):
    write_repeat(tmp_path, 8, 2, **condition)
    line = refused(tmp_path, "join_measurements.py", records=four, output=tmp_path / "cell.json")
    assert re.search(f"8-2.json: {next(iter(condition))} .*64-0.json", line)


def test_a_repeat_that_is_missing_or_there_twice_is_refused(tmp_path, four):
    for given in (four[:3], [*four, four[0]]):
        assert "2 repeats" in refused(tmp_path, "join_measurements.py", records=given, output=tmp_path / "cell.json")
