"""Speed against the batch size: real processes on the tiny LLaMA, one of which runs out of memory."""

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.evaluation.throughput import MeasuredTraining, measure, out_of_memory, reason_of
from sparseft.language_model.batches import Example, collate, encode, of_length, shuffled
from sparseft.pruning.mask_generator import PassFiles, compute_masks
from sparseft.study import grid
from sparseft.study.mask_settings import Masks
from sparseft.study.schedule import Resources, Throughput, Training
from sparseft.tasks import BY_NAME
from transformers import AutoTokenizer

pytestmark = pytest.mark.process
TOO_LARGE = 8192  # examples: 8 GB of activations and more


@pytest.fixture(scope="module")
def job(tiny_models, tmp_path_factory) -> MeasuredTraining:
    """Two batch sizes that fit in 2 GB, and two that do not."""
    checkpoint, mask = Checkpoint(tiny_models["llama"]), tmp_path_factory.mktemp("masks") / "mask.pt"
    compute_masks(checkpoint, "unstructured", [50], PassFiles([mask], mask.parent / "report.json"), Masks())
    asked = Throughput(batch_sizes=[TOO_LARGE, 2, 2 * TOO_LARGE, 4], warmup_steps=1, steps=2, repeats=2, memory_mb=2000)
    rows = BY_NAME["boolq_mini"].generate("train", 24, 0)
    settings = Training(lora_r=4)
    return MeasuredTraining(
        checkpoint, mask, "sparse_to_sparse", settings, asked, "boolq_mini", mask.parent, rows, Resources()
    )


@pytest.fixture(scope="module")
def rows(job) -> list[dict]:
    return measure(job)


@pytest.mark.slow
def test_every_batch_size_has_its_row_and_a_larger_one_than_memory_holds_is_recorded_as_such(rows):
    assert [(row["batch_size"], row["status"], len(row["repeats"])) for row in rows] == [
        (2, grid.MEASURED, 2),
        (4, grid.MEASURED, 2),
        (TOO_LARGE, grid.OUT_OF_MEMORY, 0),
        (2 * TOO_LARGE, grid.SKIPPED, 0),
    ]
    assert "can't allocate memory" in rows[2]["reason"]


def test_the_timed_steps_are_the_training_s_own_after_the_warm_up(job, rows):
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder)
    examples = encode(job.rows, BY_NAME[job.task], tokenizer, 512)
    for row in rows[:2]:
        size = row["batch_size"]
        for seed, repeat in enumerate(row["repeats"]):
            batches = list(islice(shuffled(examples, Training(batch_size=size, micro_batch_size=size), seed), 1, 3))
            assert repeat["samples"] == 2 * size
            assert repeat["tokens"] == sum(len(example.ids) for batch in batches for example in batch)
            assert repeat["padded_tokens"] == sum(collate(batch).ids.numel() for batch in batches)
            assert 10**8 < repeat["peak_memory_bytes"] < 2 * 10**9
            assert repeat["dtype"] == "bfloat16"
            assert 0 < repeat["cpu_share"] < 1.1


@pytest.mark.parametrize("megabytes", [100, 400])
def test_a_model_that_does_not_fit_at_all_is_out_of_memory_at_the_smallest_batch(job, megabytes):
    small = replace(job, throughput=Throughput(batch_sizes=[TOO_LARGE, 4096], memory_mb=megabytes))
    assert [row["status"] for row in measure(small)] == [grid.OUT_OF_MEMORY, grid.SKIPPED]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_process_that_somebody_ends_is_no_end_of_memory(job, number):
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(measure, replace(job, throughput=Throughput(batch_sizes=[2])))
        while not multiprocessing.active_children():
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid, number)
        with pytest.raises(InputError, match=f"batch size 2: .*{number.name}"):
            found.result()


@pytest.mark.parametrize(("code", "words", "killed", "reason"), [
    (-signal.SIGKILL, "", True, "killed by the system"),
    (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n", False,
     "aborted: what():  std::bad_alloc"),
    (-signal.SIGABRT, "memory allocation of 4096 bytes failed\n", False, "aborted: memory allocation of 4096 bytes failed"),
    (-signal.SIGABRT, "LLVM ERROR: out of memory\nBuffer allocation failed\n", False, "aborted: LLVM ERROR: out of memory"),
    (-signal.SIGABRT, "LLVM ERROR: Unable to allocate section memory!\n", False, "aborted: LLVM ERROR: Unable to allocate"),
    (-signal.SIGABRT, "step 1: loss 2.0\nAssertion `n > 0' failed.\n", True, None),
    (-signal.SIGSEGV, "std::bad_alloc", True, None),
    (1, "ImportError: no such module\n", True, None),
])  # fmt: skip
def test_an_end_is_one_of_memory_where_signal_and_words_fit(code, words, killed, reason):
    if reason:
        assert reason in reason_of(2, code, words, killed=killed)
        return
    with pytest.raises(InputError, match=f"batch size 2: .*{re.escape(words.splitlines()[-1])}"):
        reason_of(2, code, words, killed=killed)


CPU = torch.device("cpu")
ONEDNN = "could not create a primitive"


@pytest.mark.parametrize(("error", "limit", "memory"), [
    (MemoryError(), 10**12, True),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 10**12, True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), 10**12, True),
    (RuntimeError("std::bad_alloc"), 10**12, True),
    (ImportError("_superlu.so: failed to map segment from shared object"), 10**12, True),
    (ImportError("_superlu.so: undefined symbol: x"), 10**8, False),
    (RuntimeError(ONEDNN), 10**8, True),
    (RuntimeError(ONEDNN), 10**12, False),  # a terabyte: memory is not what it lacks
    (RuntimeError(f"{ONEDNN} descriptor for the matmul primitive."), 10**8, False),
    (RuntimeError("can't start new thread"), 10**12, False),
    (SystemError("<function _find_and_load> returned NULL without setting an exception"), 10**8, True),
    (SystemError("error return without exception set"), 10**12, False),
    (ValueError("shapes differ"), 10**8, False),
])  # fmt: skip
def test_what_torch_says_is_out_of_memory_where_the_limit_can_be_the_cause(error, limit, memory):
    assert out_of_memory(error, CPU, limit) == memory


@contextmanager
def group_of(megabytes: int):
    """A control group (v1) whose processes the kernel ends beyond that much memory; yields the file that takes them in."""
    folder = Path(f"/sys/fs/cgroup/memory/throughput_test_{os.getpid()}")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(f"{megabytes}M")
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        yield folder / "cgroup.procs"
    finally:
        while (folder / "cgroup.procs").read_text():  # what the kernel has not buried yet
            time.sleep(0.05)
        folder.rmdir()


def script_of(job: MeasuredTraining, output: Path, batch_size: int, **options: object) -> subprocess.Popen:
    """measure_throughput.py on the job, started."""
    data = output.parent / "data/train.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in job.rows))
    flags = {"cell": "llama-boolq_mini-unstructured-sparsity50-sparse_to_sparse", "model_path": job.checkpoint.folder,
             "mask_path": job.mask, "data_dir": data.parent, "output": output, "batch_sizes": batch_size, "repeats": 1,
             "steps": 10**6, "memory_mb": 20_000}  # fmt: skip
    script = Path(__file__).parents[2] / "workflow/scripts/measure_throughput.py"
    arguments = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return subprocess.Popen([sys.executable, script, *arguments], stderr=subprocess.PIPE, text=True, **options)


def test_a_process_that_the_system_kills_for_its_memory_is_out_of_memory(job, tmp_path):
    with group_of(900) as procs:
        script = script_of(job, tmp_path / "out.json", TOO_LARGE, preexec_fn=lambda: procs.write_text("0"))
        assert script.communicate()[1].count("killed by the system") == 1
    (row,) = json.loads((tmp_path / "out.json").read_text())["batches"]
    assert (script.returncode, row["status"]) == (0, grid.OUT_OF_MEMORY)


def test_a_killed_script_takes_its_measuring_process_with_it(job, tmp_path):
    script = script_of(job, tmp_path / "out.json", 2)
    measuring = []
    while not measuring:
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


def test_a_length_leaves_no_padding(job):
    asked = Throughput(batch_sizes=[3], warmup_steps=0, steps=2, repeats=1, sequence_length=50)
    (row,) = measure(replace(job, throughput=asked))
    assert row["repeats"][0]["tokens"] == row["repeats"][0]["padded_tokens"] == 3 * 2 * 50


def test_a_fault_in_the_process_is_told_as_bad_input(job):
    with pytest.raises(InputError, match="sequence_length 513: .*512 tokens"):
        measure(replace(job, throughput=Throughput(batch_sizes=[2], sequence_length=513)))
