"""An independent script computes every field of the tables again from the records, and finds the same."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from project import TINY_STUDY, Study
from recompute import differences
from records.sound_records import diverge, random_of
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute, write_tables
from sparseft.study.config import Analysis

MODES = ["sparse_to_dense", "sparse_to_sparse"]
TRAININGS = {"low": {"learning_rate": 0.0003}, "high": {"learning_rate": 0.01}}
PAIR = ["unstructured_wanda", "unstructured_sparsegpt"]
# A study that is tuned as docs/tuning.md shows.
GRID = {"methods": ["unstructured"], "sparsities": [0, 50], "modes": MODES, "seeds": [0, 1], "trainings": TRAININGS}


@pytest.mark.slow
def test_tables_of_a_study_are_what_its_records_give(tmp_path, tiny_models):
    study = Study(tmp_path)
    probes = {"evaluation": {"probes": ["gsm8k_mini"]}}
    study.configure({"llama": tiny_models["llama"]}, grid={"models": ["llama"]} | GRID, **TINY_STUDY, **probes)
    study.snakemake()
    assert differences(study.folder / "results") == []


@pytest.fixture
def written(write_run, runs_dir) -> Path:
    """Return a results folder with the records and tables of a study of two methods that differ."""
    for method, by_loss in product(("dense", *PAIR), (False, True)):
        cells = [("no_finetune", "", 0), *product(MODES[: 1 if method == "dense" else 2], ("-low", "-high"), (0, 1))]
        for mode, training, seed in cells:
            value = {"dense": 0.9, "unstructured_wanda": 0.8}.get(method, 0.55) + 0.03 * seed
            value -= 0.3 * (mode == "no_finetune") + 0.02 * (training == "-low")
            training = "" if by_loss else training
            task, sparsity = "notes" if by_loss else "boolq", "00" if method == "dense" else "50"
            selection = {"selection": value} if training else {}
            run_id = f"m-{task}-{method}-sparsity{sparsity}-{mode}{training}-seed{seed}"
            write_run(run_id, value, loss=3 - value, gap=0.01 * seed, by_loss=by_loss, change=with_error, **selection)
    folder = runs_dir.parent / "analysis"
    folder.mkdir()
    content = {"grid": {"trainings": {"low": {}, "high": {}}}, "analysis": {}}
    (folder / "configuration.yaml").write_text(yaml.safe_dump(content))
    write_tables(compute(read_study(runs_dir), Analysis()), folder)
    return runs_dir.parent


def with_error(files: dict) -> None:
    """Give a record its standard error, and the divergence of its model in 12 windows. That of the dense one is 0."""
    evaluation = files["evaluation"]
    _, _, method, _, mode, *_ = evaluation["run_id"].split("-")
    is_dense = (method, mode) == ("dense", "no_finetune")
    windows = 0 * random_of("windows").random(12) if is_dense else 0.3 + random_of(evaluation["run_id"]).random(12)
    diverge(files, windows)
    if right := evaluation.get("outcomes"):
        evaluation["standard_error"] = float(np.std(right, ddof=1) / len(right) ** 0.5)


def test_every_number_of_the_tables_is_what_the_records_give(written):
    # The mask files are not there, so every run is "not fully checked".
    assert {line.split()[2] for line in differences(written)} == {"status:"}
