"""The figures of the pages for memory, hours and GPUs agree with the estimate and the rules."""

import re

import pytest
from pages import ROOT
from project import laid_over
from sparseft.planning.estimate import study_jobs
from sparseft.planning.job_kind import JobKind
from sparseft.planning.requests import Requests, process_memory
from sparseft.study.configfiles import read_configuration
from sparseft.study.sources import DIVERGENCE
from sparseft.study.targets import programs

SOURCES = {
    "LLaMA-7B": "hub:huggyllama/llama-7b",
    "Mistral-7B": "hub:mistralai/Mistral-7B-v0.1",
    "Llama-3-8B": "hub:meta-llama/Meta-Llama-3-8B",
}
TASKS = {"texts of 2,048 tokens": {"kind": "text", "hub": "a/b", "length": 2048}, "`hellaswag`": {}}
# Of a card, a stage that fits takes so much at most. Numbers of examples that a step may have at once.
SHARE, SIZES = 0.95, (1, 2, 4, 8, 16, 32)


def section(page: str, heading: str) -> str:
    """Return the text of a page below a heading, up to the next one of its level."""
    return (ROOT / "docs" / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every line of the tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def gigabytes(
    model: str, task: str, kind: str, method: str = "unstructured", **training: object
) -> tuple[float, float]:
    """Return what a job of the section on cards needs on its GPU and in the machine, in GB."""
    config = laid_over({
        "models": {"m": {"source": SOURCES[model], "dtype": "bfloat16"}},
        "tasks": {"t": {"training": training} | TASKS[task]} if TASKS[task] else {"hellaswag": {"training": training}},
        "grid": {"models": ["m"], "tasks": ["t" if TASKS[task] else "hellaswag"], "methods": [method],
                 "modes": ["reconstruct" if kind == "reconstruction" else "sparse_to_sparse"]},
        "masks": {"calibration": {"c4": {"text": "hub:a/b", "examples": 128, "length": 2048}}},
        "training": {"batch_size": 32},
        "evaluation_batch_size": 8,
        "evaluation": {"divergence": 64},
        "resources": {"gpus": 1},
    })  # fmt: skip
    job = JobKind(kind, "m", config.grid.tasks[0], method if kind == "mask" else "", text=DIVERGENCE)
    device, machine = process_memory(config, job, Requests(config).subject("m"))
    return device / 1e9, machine / 1e9


CARDS = rows_of(section("gpu.md", "7B and 8B models by card"))


@pytest.mark.parametrize(("text", "model", "cells"), [(row[0], row[1], row[2:]) for row in CARDS if row[0] in TASKS])
def test_the_micro_batches_of_a_card_are_the_largest_that_the_estimate_allows(text, model, cells):
    for card, cell in zip((24, 48, 80), cells, strict=True):
        largest = []
        for checkpointing in (False, True):
            fits = [
                size
                for size in SIZES
                if gigabytes(model, text, "training", micro_batch_size=size, gradient_checkpointing=checkpointing)[0]
                <= SHARE * card
            ]
            largest.append(str(max(fits, default="-")))
        assert cell == ", ".join(largest), card


STAGES = {
    "masks of `wanda`": {"kind": "mask", "method": "unstructured_wanda_on_c4"},
    "masks of `taylor`": {"kind": "mask", "method": "unstructured_taylor_on_c4"},
    "masks of `sparsegpt`": {"kind": "mask", "method": "unstructured_sparsegpt_on_c4"},
    "masks of `structured_obs`": {"kind": "mask", "method": "structured_obs_on_c4"},
    "`reconstruct`": {"kind": "reconstruction"},
    "training with `shard_model`": {
        "kind": "training", "micro_batch_size": 8, "gradient_checkpointing": True, "shard_model": True
    },
    "`sample_text`": {"kind": "sampling"},
    "evaluation": {"kind": "evaluation"},
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_the_memory_of_the_other_stages_is_the_estimate(stage):
    (row,) = [row[1:] for row in CARDS if row[0] == stage]
    sizes = [gigabytes(model, "texts of 2,048 tokens", **STAGES[stage]) for model in SOURCES]
    assert row == [*(f"{on_gpu:.1f}" for on_gpu, _ in sizes), f"{max(size for _, size in sizes):.0f}"]
    assert max(on_gpu for on_gpu, _ in sizes) <= SHARE * 24


def rules_with_a_gpu() -> set[str]:
    """Return the rules for this machine whose jobs may take a GPU, because they or those that they are made from say a
    kind."""
    requests = Requests(laid_over({"resources": {"gpus": 1}}))
    text = "".join(file.read_text() for file in [*ROOT.glob("rules/*.smk"), ROOT / "rules/backends/torch.smk"])
    kinds = {"run_script": ""}
    blocks = re.findall(r"^use rule (\w+) as (\w+) with:\n((?:(?:    .*)?\n)*)", text, re.MULTILINE)
    # Those that they are made from come first.
    while unknown := [block for block in blocks if block[1] not in kinds]:
        for parent, rule, block in unknown:
            if parent in kinds:
                kinds[rule] = (re.findall(r'kind="(\w+)"', block) or [kinds[parent]])[0]
    return {rule for rule, kind in kinds.items() if requests.gpus(JobKind(kind, "smollm2", "hellaswag_mini"))}


def test_the_rules_that_the_page_on_clusters_lists_are_those_that_request_a_gpu():
    listed = [row[0] for row in rows_of(section("clusters.md", "Which jobs take a GPU"))]
    assert set(re.findall(r"`(\w+)`", " ".join(listed))) == rules_with_a_gpu()


def test_the_first_study_on_a_cs_3_takes_what_the_page_says():
    config = read_configuration([ROOT / "config/cs3.yaml", ROOT / "studies/cs3_first.yaml"])
    jobs = list(study_jobs(config))
    trainings = sum(kind == "training" for kind, *_ in jobs)
    on_appliance = len(programs(config)) + trainings
    text = " ".join((ROOT / "docs/cs3.md").read_text().split())
    assert (
        f"{len(programs(config))} compilations and {trainings} trainings of at most"
        f" {config.cerebras.job_time_sec // 60} minutes, so at most {on_appliance * config.cerebras.job_time_sec // 3600} hours"
    ) in text
