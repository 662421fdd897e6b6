"""Speed against the batch size on the package's CPU backend. Each repeat has a program and a process of its own."""

from itertools import islice

import torch
from runs import CPU, Inputs, written
from sparseft.axes.tasks import BY_NAME
from sparseft.data.rows import read_rows
from sparseft.models.language_model.batches import encode, shuffled
from sparseft.models.language_model.model import load_model

RUN = "llama-unstructured-50-sparse_to_sparse"
SLOW_WARM_UP = """
import time
import sparseft.training.trainers.cerebras.trainer as c
real, steps = c.check_finite, []
def slow(*given):
    steps.append(1)
    if len(steps) <= 2:
        time.sleep(5)
    real(*given)
c.check_finite = slow
"""


def measured(inputs: Inputs, output, **options: object) -> dict:
    """Measure four tiny steps after two, in batches of 6."""
    asked = {"batch_size": 6, "micro_batch_size": 6, "steps": 6, "warmup_steps": 2, "target": "CPU"}
    done = inputs.train(output, RUN, script="measure_cerebras.py", **asked, **options)
    return written(done, output / "measurement.json")


def test_the_timed_steps_are_the_training_s_own_after_the_warm_up_and_nothing_is_saved(inputs, tmp_path):
    record = measured(inputs, tmp_path)
    task = BY_NAME["boolq_mini"]
    _, tokenizer = load_model(inputs.folder / "llama", torch.device("cpu"))
    examples = encode(read_rows(inputs.folder / "data/train.jsonl", task), task, tokenizer, 512)
    batches = list(islice(shuffled(examples, 6, 8, 0), 2, 6))
    repeat = record["repeat"]
    assert repeat["samples"] == 24
    assert repeat["tokens"] == sum(len(example.ids) for batch in batches for example in batch)
    assert repeat["padded_tokens"] == 24 * 256
    assert 0 < repeat["cpu_share"] < 1.1
    assert 10**8 < repeat["peak_memory_bytes"] < 10**10
    assert (record["device"], repeat["dtype"], record["compile_hash"]) == (CPU, "float32", None)
    assert (record["warmup_steps"], record["steps"], record["batch_size"], record["seed"]) == (2, 4, 6, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"cerebras_logs", "measurement.json"}


def test_the_warm_up_is_in_no_rate(inputs, tmp_path):
    assert measured(inputs, tmp_path, patch=SLOW_WARM_UP)["repeat"]["seconds"] < 5


def test_examples_are_filled_to_the_length_where_that_is_asked_for(inputs, tmp_path):
    record = measured(inputs, tmp_path, fill_sequences=True, sequence_length=40)  # shorter than any of them
    assert record["repeat"]["tokens"] == record["repeat"]["padded_tokens"] == 24 * 40
    assert record["sequence_length"] == 40
