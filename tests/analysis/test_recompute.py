"""An independent script computes every field of the tables again from the records, and finds the same."""

from itertools import product

import numpy as np
import pytest
import yaml
from project import TINY_STUDY, Study
from recompute import differences
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute, write_tables
from sparseft.study.config import Analysis
from storage.sound_records import diverge, random_of

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


# What the command of the analysis may say.
OPTIONS = [{}, {"compare": ["dense", "modes"], "against": "random", "tolerance": 0.5}]
# The accuracy of the dense models by task. At chance they only guess, and at 1 all models are equal on each example.
ACCURACIES = {"boolq": 0.9, "guessed": 0.25, "easy": 1.0}
WORDS = {"lower", "higher", "not told apart", "within", "equal here", "dense guesses"}


def write_study(write_run) -> None:
    """Write the records of a study of three methods that differ, on three tasks with outcomes and one by its loss."""
    for method, task in product(("dense", *PAIR, "random"), (*ACCURACIES, "notes")):
        cells = [("no_finetune", "", 0), *product(MODES[: 1 if method == "dense" else 2], ("-low", "-high"), (0, 1))]
        for mode, training, seed in cells:
            share = {"dense": 1, "unstructured_wanda": 0.9}.get(method, 0.6) + 0.03 * seed
            share -= 0.3 * (mode == "no_finetune") + 0.02 * (training == "-low")
            value = 1.0 if task == "easy" else ACCURACIES.get(task, 0.9) * share
            by_loss = task == "notes"
            training = "" if by_loss else training
            sparsity = "00" if method == "dense" else "50"
            changes = {"selection": share} if training else {}
            changes |= {"probes": {"p": share}} if task in ("boolq", "guessed") else {}
            run_id = f"m-{task}-{method}-sparsity{sparsity}-{mode}{training}-seed{seed}"
            write_run(run_id, value, loss=3 - share, gap=0.01 * seed, by_loss=by_loss, change=with_error, **changes)


def with_error(files: dict) -> None:
    """Give a record its standard error, and the divergence of its model in 12 windows. That of the dense one is 0."""
    evaluation = files["evaluation"]
    _, _, method, _, mode, *_ = evaluation["run_id"].split("-")
    is_dense = (method, mode) == ("dense", "no_finetune")
    windows = 0 * random_of("windows").random(12) if is_dense else 0.3 + random_of(evaluation["run_id"]).random(12)
    diverge(files, windows)
    if right := evaluation.get("outcomes"):
        evaluation["standard_error"] = float(np.std(right, ddof=1) / len(right) ** 0.5)


@pytest.mark.slow
def test_every_number_of_the_tables_is_what_the_records_give(write_run, runs_dir):
    write_study(write_run)
    frames, words = read_study(runs_dir), set()
    folder = runs_dir.parent / "analysis"
    folder.mkdir()
    for options in OPTIONS:
        content = {"grid": {"trainings": {"low": {}, "high": {}}}, "analysis": options}
        (folder / "configuration.yaml").write_text(yaml.safe_dump(content))
        results = compute(frames, Analysis(**options))
        write_tables(results, folder)
        # The mask files are not there, so every run is "not fully checked".
        assert {line.split()[2] for line in differences(runs_dir.parent)} == {"status:"}
        words |= set(results.comparisons["verdict"])
    assert words == WORDS
