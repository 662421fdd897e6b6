"""Speed against the batch size on the package's CPU backend: a program and a process of its own for each repeat."""

import csv
import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from project import ROOT, TINY_STUDY, Study, tiny_grid
from runs import HERE, Inputs
from sparseft.language_model.batches import encode, shuffled
from sparseft.language_model.model import load_model
from sparseft.study import grid
from sparseft.study.schedule import Training
from sparseft.tasks import BY_NAME
from sparseft.tasks.rows import read_rows

PYTHON = os.environ.get("SPARSEFT_PYTHON", str(ROOT / ".venv/bin/python"))
RUN = "llama-unstructured-50-sparse_to_sparse"
CPU = "CSX software backend on CPU"
SLOW_WARM_UP = """
import time
import sparseft.backends.cerebras.trainer as c
real, steps = c.check_finite, []
def slow(*given):
    steps.append(1)
    if len(steps) <= 2:
        time.sleep(3)
    real(*given)
c.check_finite = slow
"""


def measure(inputs: Inputs, output: Path, *flags: object, patch: str = "") -> subprocess.CompletedProcess:
    """measure_cerebras.py on four tiny steps after two, in batches of 6."""
    asked = ["--batch_size", 6, "--micro_batch_size", 6, "--steps", 6, "--warmup_steps", 2, "--target", "CPU", *flags]
    command = [sys.executable, HERE / "patched.py", "measure_cerebras.py", patch, *inputs.flags(output, RUN), *asked]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def measured(inputs: Inputs, output: Path, *flags: object, patch: str = "") -> dict:
    done = measure(inputs, output, *flags, patch=patch)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((output / "measurement.json").read_text())


def test_the_timed_steps_are_the_training_s_own_after_the_warm_up_and_nothing_is_saved(inputs, tmp_path):
    record = measured(inputs, tmp_path)
    task = BY_NAME["boolq_mini"]
    _, tokenizer = load_model(inputs.folder / "llama", torch.device("cpu"))
    examples = encode(read_rows(inputs.folder / "data/train.jsonl", task), task, tokenizer, 512)
    batches = list(islice(shuffled(examples, Training(batch_size=6, micro_batch_size=6), 0), 2, 6))
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
    slow = measured(inputs, tmp_path, patch=SLOW_WARM_UP)
    assert slow["repeat"]["seconds"] < 3


def test_examples_are_filled_to_the_length_where_that_is_asked_for(inputs, tmp_path):
    record = measured(inputs, tmp_path, "--fill_sequences", "--sequence_length", 40)  # shorter than any of them
    assert record["repeat"]["tokens"] == record["repeat"]["padded_tokens"] == 24 * 40
    assert record["sequence_length"] == 40


@pytest.mark.parametrize(("flags", "line"), [
    (["--target", "CSX"], "error: throughput.steps 4: .* 100 steps"),
    (["--warmup_steps", 6], "error: --steps 6: .*6 of warm-up"),
    (["--sequence_length", 40], "more than 40 tokens"),
    (["--target", "CSX", "--steps", 102], "knows no Cerebras appliance"),
])  # fmt: skip
def test_what_cannot_be_measured_is_one_line(inputs, tmp_path, flags, line):
    done = measure(inputs, tmp_path, *flags)
    assert done.returncode == 2
    assert re.search(line, done.stderr.splitlines()[-1])
    assert not (tmp_path / "measurement.json").exists()


@pytest.mark.skipif(not Path(PYTHON).exists(), reason="Snakemake's environment is not there: make .venv/installed")
def test_the_stage_measures_each_batch_size_and_makes_the_table_that_names_the_device(tmp_path, tiny_models):
    study = Study(tmp_path / "a folder with spaces", python=PYTHON)
    cells = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}
    settings = {"target": "CPU", "python": sys.executable, "sequence_length": 128}
    asked = {"batch_sizes": [4, 2], "warmup_steps": 1, "steps": 3, "repeats": 2}
    study.configure({"llama": tiny_models["llama"]}, grid=cells, backend="cerebras", cerebras=settings, throughput=asked,
                    **TINY_STUDY)  # fmt: skip
    study.snakemake("throughput", "--cores", "2")
    with open(study.folder / grid.ResultPaths().throughput_table) as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["batch_size"], row["status"], row["n"]) for row in rows] == [
        (method, size, grid.MEASURED, "2") for method in ("dense", "unstructured") for size in ("2", "4")
    ]
    for row in rows:
        assert (row["device"], row["warmup_steps"], row["steps"]) == (CPU, "1", "3")
        assert (row["memory_limit_bytes"], row["memory_limit_kind"], row["sequence_length"]) == ("", "", "")
        low, mean, high = (float(row[f"samples_per_second_{end}"]) for end in ("low", "mean", "high"))
        assert low < mean < high
        assert float(row["tokens_per_sample"]) < float(row["tokens_per_sample_padded"]) == 128
    assert (
        study.folder / grid.ResultPaths().throughput_plots / "llama_boolq_mini_throughput_vs_batch_size.png"
    ).exists()
    assert not list(study.folder.glob("results/runs/*"))
    assert list(study.folder.rglob("*.mdl")) == []
    assert study.planned("throughput") == {}
