"""Speed against the batch size: real processes on the tiny LLaMA, one of which runs out of memory."""

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
from hub_cache import write
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.evaluation import throughput_record
from sparseft.evaluation.throughput import MeasuredTraining, measure, reason_of
from sparseft.language_model.batches import Example, collate, encode, of_length, shuffled
from sparseft.tasks import BY_NAME
from sparseft.training.settings import Throughput, Training
from transformers import AutoTokenizer

from masks import compute_masks, write_mask

pytestmark = pytest.mark.process
# Examples, with 8 GB of activations and more.
TOO_LARGE = 8192


@pytest.fixture(scope="module")
def job(tiny_models, tmp_path_factory) -> MeasuredTraining:
    """Return a training with two batch sizes that fit in 2 GB, and two that do not."""
    checkpoint, mask = Checkpoint(tiny_models["llama"]), tmp_path_factory.mktemp("masks") / "mask.pt"
    write_mask(mask, compute_masks(checkpoint, "unstructured", [50])[50])
    asked = Throughput(batch_sizes=[TOO_LARGE, 2, 2 * TOO_LARGE, 4], warmup_steps=1, steps=2, repeats=2, memory_mb=2000)
    rows = BY_NAME["boolq_mini"].generate("train", 24, 0)
    settings = Training(lora_r=4)
    return MeasuredTraining(checkpoint, mask, "sparse_to_sparse", settings, asked, "boolq_mini", mask.parent, rows, 1)


@pytest.mark.slow
def test_every_batch_size_is_measured_after_the_warm_up_or_recorded_as_out_of_memory(job):
    rows = measure(job)
    assert [(row["batch_size"], row["status"], len(row["repeats"])) for row in rows] == [
        (2, throughput_record.MEASURED, 2),
        (4, throughput_record.MEASURED, 2),
        (TOO_LARGE, throughput_record.OUT_OF_MEMORY, 0),
        (2 * TOO_LARGE, throughput_record.SKIPPED, 0),
    ]
    assert "can't allocate memory" in rows[2]["reason"]
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder)
    examples = encode(job.rows, BY_NAME[job.task], tokenizer, 512)
    for row in rows[:2]:
        size = row["batch_size"]
        for seed, repeat in enumerate(row["repeats"]):
            batches = list(islice(shuffled(examples, size, 8, seed), 1, 3))
            assert repeat["samples"] == 2 * size
            assert repeat["tokens"] == sum(len(example.ids) for batch in batches for example in batch)
            assert repeat["padded_tokens"] == sum(collate(batch).ids.numel() for batch in batches)
            assert 10**8 < repeat["peak_memory_bytes"] < 2 * 10**9
            assert repeat["dtype"] == "bfloat16"
            assert 0 < repeat["cpu_share"] < 1.1


@pytest.mark.parametrize(("code", "words", "reason"), [
    (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
     "what():  std::bad_alloc"),
    (-signal.SIGABRT, "LLVM ERROR: out of memory\nBuffer allocation failed\n", "LLVM ERROR: out of memory"),
    (1, "MemoryError:  (loop.py, line 1)\n", "MemoryError:  (loop.py, line 1)"),
    # Somebody ended it, or it is not known what did.
    (-signal.SIGKILL, "nothing", None),
    (1, "ImportError: no such module\n", None),
])  # fmt: skip
def test_an_end_is_one_of_memory_where_the_process_says_so(code, words, reason):
    if reason:
        assert reason_of(2, code, words) == reason
        return
    with pytest.raises(InputError, match=f"batch size 2: .*{re.escape(words.splitlines()[-1])}"):
        reason_of(2, code, words)


@pytest.mark.long
def test_a_killed_script_takes_its_measuring_process_with_it(job, tmp_path):
    write(tmp_path / "data/train.jsonl", job.rows)
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


@pytest.mark.long
def test_a_length_leaves_no_padding_and_one_that_the_model_does_not_take_is_refused(job):
    asked = Throughput(batch_sizes=[3], warmup_steps=0, steps=2, repeats=1, sequence_length=50)
    (row,) = measure(replace(job, throughput=asked))
    assert row["repeats"][0]["tokens"] == row["repeats"][0]["padded_tokens"] == 3 * 2 * 50
    with pytest.raises(InputError, match=r"sequence_length 513: .*512 tokens"):
        measure(replace(job, throughput=Throughput(batch_sizes=[2], sequence_length=513)))
