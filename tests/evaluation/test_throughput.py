"""Speed against the batch size: real processes, one of which runs out of memory, and a cell's repeats as one file."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest
from project import refused, succeed
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.data.rows import write_rows
from sparseft.evaluation import throughput_record
from sparseft.evaluation.throughput import MeasuredTraining, measure, reason_of
from sparseft.evaluation.throughput_record import MeasurementRecord, read_measurements
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example, collate, encode, of_length, shuffled
from sparseft.storage.record_file import write
from sparseft.training.settings import MEASURED_KEYS, Throughput, Training
from transformers import AutoTokenizer

from masks import compute_masks, write_mask

# Examples, with 8 GB of activations and more.
TOO_LARGE = 8192


@pytest.fixture(scope="module")
def job(tiny_models, tmp_path_factory) -> MeasuredTraining:
    """Return a training with a batch size that fits in 2 GB, and two that do not."""
    checkpoint, mask = Checkpoint(tiny_models["llama"]), tmp_path_factory.mktemp("masks") / "mask.pt"
    write_mask(mask, compute_masks(checkpoint, "unstructured", [50])[50])
    throughput = Throughput(
        batch_sizes=[TOO_LARGE, 2, 2 * TOO_LARGE], warmup_steps=1, steps=2, repeats=2, memory_mb=2000
    )
    rows = BY_NAME["boolq_mini"].generate("train", 24, 0)
    settings = Training(lora_r=4)
    names = ("sparse_to_sparse", settings, throughput, "boolq_mini")
    return MeasuredTraining(checkpoint, mask, *names, mask.parent, rows, 1)


@pytest.mark.slow
def test_every_batch_size_is_measured_after_the_warm_up_or_recorded_as_out_of_memory(job):
    rows = measure(job)
    assert [(row["batch_size"], row["status"], len(row["repeats"])) for row in rows] == [
        (2, throughput_record.MEASURED, 2),
        (TOO_LARGE, throughput_record.OUT_OF_MEMORY, 0),
        (2 * TOO_LARGE, throughput_record.SKIPPED, 0),
    ]
    assert "can't allocate memory" in rows[1]["reason"]
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder)
    examples = encode(job.rows, BY_NAME[job.task], tokenizer, 512)
    for seed, repeat in enumerate(rows[0]["repeats"]):
        batches = list(islice(shuffled(examples, 2, 8, seed), 1, 3))
        assert repeat["samples"] == 2 * 2
        assert repeat["tokens"] == sum(len(example.ids) for batch in batches for example in batch)
        assert repeat["padded_tokens"] == sum(collate(batch).ids.numel() for batch in batches)
        assert 10**8 < repeat["peak_memory_bytes"] < 2 * 10**9
        assert repeat["dtype"] == "bfloat16"
        assert 0 < repeat["cpu_share"] < 1.1


@pytest.mark.parametrize(("code", "printed", "reason"), [
    (-signal.SIGABRT, "LLVM ERROR: out of memory\nBuffer allocation failed\n", "LLVM ERROR: out of memory"),
    (2, "error: MemoryError: (loop.py, line 1); check\n", "MemoryError: (loop.py, line 1); check"),
    # Somebody ended it, or it is not known what did.
    (-signal.SIGKILL, "nothing", None),
    (2, "error: ImportError: no such module; check\n", None),
])  # fmt: skip
def test_an_end_is_one_of_memory_where_the_process_says_so(code, printed, reason):
    if reason:
        assert reason_of(2, code, printed) == reason
        return
    with pytest.raises(InputError, match=f"batch size 2: .*{printed.strip().removeprefix('error: ')}"):
        reason_of(2, code, printed)


@pytest.mark.slow
def test_a_killed_script_takes_its_measuring_process_with_it(job, tmp_path):
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data/train.jsonl", job.rows)
    flags = {"cell": "llama-boolq_mini-unstructured-sparsity50-sparse_to_sparse", "model_path": job.checkpoint.folder,
             "mask_path": job.mask, "data_dir": tmp_path / "data", "output": tmp_path / "out.json", "batch_sizes": 2,
             "repeats": 1,
             "steps": 10**6, "memory_mb": 20_000}  # fmt: skip
    program = Path(__file__).parents[2] / "workflow/scripts/measure_throughput.py"
    arguments = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    script = subprocess.Popen([sys.executable, program, *arguments], stderr=subprocess.DEVNULL)
    measuring = []
    while not measuring:
        assert script.poll() is None
        time.sleep(0.1)
        children = psutil.Process(script.pid).children()
        measuring = [child for child in children if Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "1000\n"]
    script.kill()
    script.wait()
    _, alive = psutil.wait_procs(measuring, timeout=10)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.parametrize("length", [2, 5, 40])
def test_an_example_of_another_length_ends_alike_and_answers_in_as_many_tokens(length):
    example = of_length(Example([1, 2, 3, 4, 5], 3), length)
    assert len(example.ids) == length
    assert example.ids == ([1, 2, 3, 4, 5] * 8)[-length:]
    assert example.ids[example.answer_start :] == [4, 5][-(length - 1) :]


@pytest.mark.slow
def test_a_length_leaves_no_padding_and_one_that_the_model_does_not_take_is_refused(job):
    throughput = Throughput(batch_sizes=[3], warmup_steps=0, steps=2, repeats=1, sequence_length=50)
    (row,) = measure(replace(job, throughput=throughput))
    assert row["repeats"][0]["tokens"] == row["repeats"][0]["padded_tokens"] == 3 * 2 * 50
    with pytest.raises(InputError, match=r"sequence_length 513: .*512 tokens"):
        measure(replace(job, throughput=Throughput(batch_sizes=[2], sequence_length=513)))


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


@pytest.mark.parametrize("condition", [{"versions": {"torch": "2.5.0"}}, {"inputs": INPUTS | {"model": "b"}}])
def test_what_was_measured_under_other_conditions_is_not_joined(tmp_path, four, condition):
    write_repeat(tmp_path, 8, 2, **condition)
    line = refused(tmp_path, "join_measurements.py", records=four, output=tmp_path / "cell.json")
    assert re.search(f"8-2.json: {next(iter(condition))} .*64-0.json", line)


def test_a_repeat_that_is_missing_or_there_twice_is_refused(tmp_path, four):
    for given in (four[:3], [*four, four[0]]):
        assert "2 repeats" in refused(tmp_path, "join_measurements.py", records=given, output=tmp_path / "cell.json")
