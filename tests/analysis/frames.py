"""Small studies as the analysis reads them from records: the default study, and larger ones."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import Results, compute
from sparseft.axes.grid import Run
from sparseft.storage.record_file import write
from sparseft.study.config import Analysis
from storage.sound_records import SCHEMAS, diverge, pieces

# method, sparsity, mode, value; the loss is 2 - value
CELLS = (
    ("dense", 0, "no_finetune", 0.969),
    ("dense", 0, "sparse_to_dense", 1.0),
    ("unstructured", 10, "no_finetune", 0.969),
    ("structured", 10, "no_finetune", 0.328),
    ("random", 10, "no_finetune", 0.250),
    ("unstructured", 10, "sparse_to_sparse", 1.0),
    ("structured", 10, "sparse_to_sparse", 0.750),
    ("random", 10, "sparse_to_sparse", 0.891),
)


def write_run(runs: Path, run: Run, value: float, change=lambda files: None, **changes) -> Path:
    """Write the sound records of a run, which `change` may alter, and return its folder."""
    files = pieces(run, value, **changes)
    change(files)
    folder = runs / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write(folder / f"{name}.json", SCHEMAS[name].model_validate(content))
    return folder


def shaped(run: Run, files: dict[str, dict]) -> None:
    """Give a run the divergence of its model, and channels a lower sparsity than the one that was asked for."""
    diverge(files, [run.sparsity / 100 + number / 1000 for number in range(12)])
    if run.method == "structured":
        report = files["validation_report"]
        pruned = round(7.5 * run.sparsity)  # of 1,000 weights of each layer
        shares = ("expected_sparsity", "actual_sparsity", "sparsity_within_tolerance")
        report |= dict.fromkeys(shares, pruned / 1000)
        for row in report["layers"]:
            row |= {"pruned": pruned, "zeros": pruned}


def make_study(cells: Iterable[tuple] = CELLS, places=(("smollm2", "hellaswag_mini"),), **changes) -> Results:
    """Return the study of these cells, of one sound seed each, for each model and task."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "results/runs"
        for (model, task), (method, sparsity, mode, value) in product(places, cells):
            run = Run(model, task, method, sparsity, mode, 0)
            write_run(runs, run, value, partial(shaped, run), loss=2 - value, examples=64, **changes)
        frames = read_study(runs)
    # No mask file is there, so the hashes of the masks were not compared.
    return compute(replace(frames, runs=frames.runs.assign(status="sound"), faults=frames.faults[:0]), Analysis())


def on_sampled_windows() -> Results:
    """Return the study of CELLS on windows that the dense model has sampled: a loss is that of dense and the
    divergence."""
    study = make_study([(*cell, value) for *cell, value in CELLS if cell[2] == "no_finetune"], by_loss=True)
    rest = study.curves["eval_loss"] - study.curves["eval_loss"].min()
    columns = {"divergence": rest, "divergence_low": rest - 0.1, "divergence_high": rest + 0.1}
    return replace(study, curves=study.curves.assign(**columns, same_top_tokens=0.5))


def large_study() -> Results:
    """Return a study of two models and two tasks at three sparsities, with long names, a fault and an overlap."""
    methods, modes = (
        ("unstructured_wanda", "unstructured_sparsegpt_owl_on_wikitext2"),
        ("no_finetune", "sparse_to_sparse"),
    )
    pruned = product(methods, (30, 50, 70), modes)
    cells = [(*cell, 0.97 - cell[1] / 100 * (0.2 if cell[2] == "sparse_to_sparse" else 0.6)) for cell in pruned]
    study = make_study([*CELLS[:2], *cells], product(("llama_3.2_1b", "mistral"), ("boolq_mini", "hellaswag_mini")))
    fault = {
        "run_id": study.runs["run_id"].iloc[3],
        "kind": "fault",
        "text": "merge.json: inputs.adapter is another file",
    }
    faults = pd.DataFrame([{"study": "results", **fault}])
    return replace(study, runs=study.runs.assign(validation_overlap=0.25), faults=faults)
