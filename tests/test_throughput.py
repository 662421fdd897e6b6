"""Speed against the batch size: real processes on the tiny LLaMA, one of which runs out of memory."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest
from sparseft import grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.config import Masks, Resources, Throughput, Training
from sparseft.errors import InputError
from sparseft.pruning.mask_generator import compute_masks
from sparseft.tasks import get_task
from sparseft.throughput import Job, measure, of_length
from sparseft.training.batches import Example, collate, encode, shuffled
from transformers import AutoTokenizer

TOO_LARGE = 8192  # examples: 8 GB of activations and more


@pytest.fixture(scope="module")
def job(tiny_models, tmp_path_factory) -> Job:
    """Two batch sizes that fit in 2 GB, and two that do not."""
    checkpoint, mask = Checkpoint(tiny_models["llama"]), tmp_path_factory.mktemp("masks") / "mask.pt"
    with compute_masks(checkpoint, "unstructured", [50], [mask], Masks()):
        pass
    asked = Throughput(batch_sizes=[TOO_LARGE, 2, 2 * TOO_LARGE, 4], warmup_steps=1, steps=2, repeats=2)
    rows = get_task("boolq_mini").generate("train", 24, 0)
    settings = Training(lora_r=4)
    return Job(checkpoint, mask, "sparse_to_sparse", settings, asked, "boolq_mini", rows, Resources(memory_mb=2000))


@pytest.fixture(scope="module")
def rows(job) -> list[dict]:
    return measure(job)


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
    examples = encode(job.rows, get_task(job.task), tokenizer, 512)
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
    small = replace(job, resources=Resources(memory_mb=megabytes), asked=Throughput(batch_sizes=[TOO_LARGE, 4096]))
    assert [row["status"] for row in measure(small)] == [grid.OUT_OF_MEMORY, grid.SKIPPED]


def test_a_process_that_the_system_kills_is_out_of_memory_too(job):
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(measure, replace(job, asked=Throughput(batch_sizes=[2])))
        while not multiprocessing.active_children():
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()
        (row,) = found.result()
    assert (row["status"], row["repeats"]) == (grid.OUT_OF_MEMORY, [])
    assert row["reason"].startswith("killed")


@pytest.mark.parametrize("length", [2, 5, 40])
def test_an_example_of_another_length_ends_alike_and_answers_in_as_many_tokens(length):
    example = of_length(Example([1, 2, 3, 4, 5], 3), length)
    assert len(example.ids) == length
    assert example.ids == ([1, 2, 3, 4, 5] * 8)[-length:]
    assert example.ids[example.answer_start :] == [4, 5][-(length - 1) :]


def test_a_length_leaves_no_padding(job):
    asked = Throughput(batch_sizes=[3], warmup_steps=0, steps=2, repeats=1, sequence_length=50)
    (row,) = measure(replace(job, asked=asked))
    assert row["repeats"][0]["tokens"] == row["repeats"][0]["padded_tokens"] == 3 * 2 * 50


def test_a_fault_in_the_process_is_told_as_bad_input(job):
    with pytest.raises(InputError, match="the model takes 512 tokens; lower it"):
        measure(replace(job, asked=Throughput(batch_sizes=[2], sequence_length=513)))
