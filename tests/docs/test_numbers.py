"""Tables of the pages beside the estimate, the measurements and the formula that they show."""

import re

import pytest
from pages import ROOT, rows_of, section
from project import laid_over
from sparseft.data.settings import DIVERGENCE
from sparseft.study.planning.needs import Job
from sparseft.study.planning.requests import Requests
from statsmodels.stats.power import TTestPower

RESULTS = ROOT / "benchmarks/results"
SOURCES = {
    "LLaMA-7B": "hub:huggyllama/llama-7b",
    "Mistral-7B": "hub:mistralai/Mistral-7B-v0.1",
    "Llama-3-8B": "hub:meta-llama/Meta-Llama-3-8B",
}
TASKS = {"texts of 2,048 tokens": {"kind": "text", "hub": "a/b", "length": 2048}, "`hellaswag`": {}}
# Of a card, a stage that fits takes so much at most. Numbers of examples that a step may have at once.
SHARE, SIZES = 0.95, (1, 2, 4, 8, 16, 32)


def gigabytes(model: str, text: str, stage: str, method: str = "unstructured", **training: object) -> list[float]:
    """Return what a job of the section on cards needs on its GPU and in the machine, in GB."""
    mode = "reconstruct" if stage == "reconstruct" else "sparse_to_sparse"
    task = "t" if TASKS[text] else "hellaswag"
    config = laid_over({
        "models": {"m": {"source": SOURCES[model], "dtype": "bfloat16"}},
        "tasks": {task: {"training": training, **TASKS[text]}},
        "grid": {"models": ["m"], "tasks": [task], "methods": [method], "modes": [mode]},
        "masks": {"calibration": {"c4": {"text": "hub:a/b", "examples": 128, "length": 2048}}},
        "training": {"batch_size": 32},
        "evaluation_batch_size": 8,
        "evaluation": {"divergence": 64},
        "resources": {"gpus": 1},
    })  # fmt: skip
    job = Job(stage, "m", task, method, mode=mode, text=DIVERGENCE)
    return [size / 1e9 for size in Requests(config).bytes_of(job)]


CARDS = rows_of(section("gpu.md", "7B and 8B models by card"))


@pytest.mark.parametrize(("text", "model", "cells"), [(row[0], row[1], row[2:]) for row in CARDS if row[0] in TASKS])
def test_the_micro_batches_of_a_card_are_the_largest_that_the_estimate_allows(text, model, cells):
    for card, cell in zip((24, 48, 80), cells, strict=True):
        largest = []
        for checkpointing in (False, True):
            settings = {"stage": "train", "gradient_checkpointing": checkpointing}
            needed = {size: gigabytes(model, text, micro_batch_size=size, **settings)[0] for size in SIZES}
            largest.append(str(max((size for size in SIZES if needed[size] <= SHARE * card), default="-")))
        assert cell == ", ".join(largest), card


STAGES = {
    "masks of `wanda`": {"stage": "compute_masks", "method": "unstructured_wanda_on_c4"},
    "masks of `taylor`": {"stage": "compute_masks", "method": "unstructured_taylor_on_c4"},
    "masks of `sparsegpt`": {"stage": "compute_masks", "method": "unstructured_sparsegpt_on_c4"},
    "masks of `structured_obs`": {"stage": "compute_masks", "method": "structured_obs_on_c4"},
    "`reconstruct`": {"stage": "reconstruct"},
    "training with `shard_model`":
        {"stage": "train", "micro_batch_size": 8, "gradient_checkpointing": True, "shard_model": True},
    "`sample_text`": {"stage": "sample_text"},
    "evaluation": {"stage": "evaluate"},
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_the_memory_of_the_other_stages_is_the_estimate(name):
    (row,) = [row[1:] for row in CARDS if row[0] == name]
    sizes = [gigabytes(model, "texts of 2,048 tokens", **STAGES[name]) for model in SOURCES]
    assert row == [*(f"{on_gpu:.1f}" for on_gpu, _ in sizes), f"{max(size for _, size in sizes):.0f}"]
    assert max(on_gpu for on_gpu, _ in sizes) <= SHARE * 24


def test_the_shares_of_differences_by_three_measures_are_those_of_the_simulation():
    header, _, *rows = rows_of((RESULTS / "measures.md").read_text())
    (row,) = (dict(zip(header, row, strict=True)) for row in rows if row[:2] == ["64", "16"])
    shares = [row[name] for name in ("found: accuracy only", "found: any", "false winners: all")]
    assert re.findall(r"in\s+([\d.]+) %", section("statistics.md", "Three measures"))[-3:] == shares


@pytest.mark.parametrize("row", rows_of(section("statistics.md", "How many examples"))[2:])
def test_the_examples_that_a_difference_needs_are_those_of_statsmodels(row):
    difference = float(row[0])
    effect = difference / (0.2 - difference**2) ** 0.5
    needed = [TTestPower().solve_power(effect, alpha=0.05 / comparisons, power=0.8) for comparisons in (1, 6, 12)]
    assert [f"{number:,.0f}" for number in needed] == row[1:]
