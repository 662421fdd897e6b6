"""Runs are pooled and compared only if they agree in every setting that both have; a configuration says who belongs to
it."""

import numpy as np
import pytest
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute
from sparseft.study.config import Analysis, Config
from storage.sound_records import check_engines, digest

RUN = "m-boolq_mini-{method}-sparsity{sparsity}-{mode}-seed{seed}"
DENSE = RUN.format(method="dense", sparsity="00", mode="sparse_to_dense", seed=0)
ORIGINAL = RUN.format(method="dense", sparsity="00", mode="no_finetune", seed=0)
SPARSE = RUN.format(method="unstructured", sparsity="50", mode="sparse_to_sparse", seed="{seed}")
UNTUNED = RUN.format(method="unstructured", sparsity="50", mode="no_finetune", seed=0)


def trained_with(**values):
    return lambda files: files["train"].update(values)


def taught_by(model):
    return lambda files: files["train"]["inputs"].update(dense=digest(model))


def of_another_harness(files: dict) -> None:
    for name in ("evaluation", "before_merge"):
        files[name]["harness"] = "lm-eval 2"


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (trained_with(lora_targets=["q_proj", "v_proj"]), "lora_targets q_proj, v_proj"),
        (taught_by("x"), f"inputs.dense {digest('x')[:12]}"),
        (of_another_harness, "evaluation harness lm-eval 2"),
        (lambda files: files["validation_report"]["mask"].update(scope="row"), "unstructured scope row"),
    ],
)
def test_runs_of_two_settings_are_two_cells(write_run, runs_dir, change, setting):
    write_run(SPARSE.format(seed=0))
    write_run(SPARSE.format(seed=1), change=change)
    cells = compute(read_study(runs_dir), Analysis()).cells
    assert cells["seeds"].tolist() == [1, 1]
    assert setting in set(cells["setting"])


def test_the_teacher_of_a_reconstruction_is_a_setting_of_the_run_that_starts_from_it(write_run, runs_dir):
    for seed, teacher in enumerate("xy"):
        start = SPARSE.replace("sparse_to_sparse", "reconstruct").format(seed=seed)
        write_run(start, change=taught_by(teacher))
        write_run(start.replace("reconstruct", "reconstruct_to_sparse"), start=start)
    cells = compute(read_study(runs_dir), Analysis()).cells
    assert cells["seeds"].tolist() == [1] * 4
    assert set(cells["setting"]) == {f"reconstruction inputs.dense {digest(teacher)[:12]}" for teacher in "xy"}


def test_cells_are_compared_if_they_agree_in_what_both_have(write_run, runs_dir):
    """The dense run has the learning rate of one of the two trainings. The untrained model agrees with both."""
    write_run(ORIGINAL)
    write_run(DENSE)
    write_run(UNTUNED)
    write_run(SPARSE.format(seed=0))
    write_run(SPARSE.format(seed=1), change=trained_with(learning_rate=0.5))
    pairs = compute(read_study(runs_dir), Analysis()).comparisons
    own = pairs.query("method == 'unstructured' and mode == 'sparse_to_sparse' and measure == 'value'")
    assert own["question"].value_counts().to_dict() == {"dense": 1, "untuned": 2}


def test_a_guess_and_a_curve_are_those_of_cells_that_agree(write_run, runs_dir):
    """Two learning rates: the dense model of the second only guesses, and each pruned cell has its own dense one."""
    for seed, rate, dense in ((0, 0.001, 0.9), (1, 0.002, 0.2)):
        change = trained_with(learning_rate=rate)
        write_run(DENSE.replace("seed0", f"seed{seed}"), dense, change=change)
        write_run(SPARSE.format(seed=seed), 0.6, change=change)
    write_run(UNTUNED, 0.3)
    table = compute(read_study(runs_dir), Analysis()).curves.query("mode == 'sparse_to_sparse'").set_index("setting")
    assert table["dense_value"].to_dict() == {"learning_rate 0.001": 0.9, "learning_rate 0.002": 0.2}
    assert table.at["learning_rate 0.001", "verdict"] == "lower"
    assert table.at["learning_rate 0.002", "verdict"] == "dense guesses"


def study_with(**sections) -> Config:
    """Return the study to which the runs of this file belong, with other sections."""
    default = {
        "models": {"m": {"source": "path:m", "dtype": "float32"}},
        "tasks": {"boolq_mini": {"train_examples": 480, "validation_examples": 60}},
        "grid": {"models": ["m"], "tasks": ["boolq_mini"], "methods": ["unstructured"], "sparsities": [0, 50],
                 "modes": ["sparse_to_sparse"], "seeds": [0]},
        "training": {"steps": 60, "learning_rate": 0.001, "batch_size": 8, "micro_batch_size": 8},
    }  # fmt: skip
    return Config(**{name: {**default.get(name, {}), **sections.get(name, {})} for name in default | sections})


def test_a_run_outside_the_grid_is_in_no_table(write_run, runs_dir):
    for seed, value in ((0, 0.25), (5, 0.75)):
        write_run(SPARSE.format(seed=seed), value, change=trained_with(learning_rate=0.001))
    study = study_with()
    results = compute(read_study(runs_dir, study), Analysis(), study)
    assert results.runs[["seed", "status", "chosen"]].values.tolist() == [[0, "not fully checked", True]]
    assert results.cells[["seeds", "value"]].values.tolist() == [[1, 0.25]]
    absent = ["results", True, "no such folder, though the configuration asks for it"]
    assert results.missing.drop(columns="run_id").values.tolist() == [absent] * 3


def test_a_cell_that_agrees_with_two_dense_cells_stands_once_without_a_difference(write_run, runs_dir):
    write_run(DENSE, change=trained_with(dtype="bfloat16"))
    write_run(DENSE.replace("seed0", "seed1"))
    write_run(SPARSE.format(seed=0), change=lambda files: [files.pop(name) for name in ("train", "before_merge")])
    table = compute(read_study(runs_dir), Analysis()).curves.query("method != 'dense'")
    assert len(table) == 1
    assert np.isnan(table["difference"].iloc[0])


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"training": {"learning_rate": 0.25}}, "learning_rate 0.001 instead of 0.25"),
        ({"models": {"m": {"source": "path:m", "dtype": "bfloat16"}}}, "dtype float32 instead of bfloat16"),
        ({"masks": {"scope": "row"}}, "scope layer instead of row"),
    ],
)
def test_a_run_with_other_settings_than_the_configured_ones_is_at_fault(write_run, runs_dir, sections, reason):
    write_run(SPARSE.format(seed=0), change=trained_with(learning_rate=0.001))
    for study, is_other in ((study_with(), False), (study_with(**sections), True)):
        faults = read_study(runs_dir, study).faults.query("kind == 'fault'")
        assert any(reason in text for text in faults["text"]) == is_other


@pytest.mark.parametrize("tokens", [32, 16])
def test_engines_that_were_measured_with_other_settings_are_a_fault(write_run, runs_dir, tokens):
    write_run(SPARSE.format(seed=0), change=check_engines)
    faults = read_study(runs_dir, study_with(export={"new_tokens": tokens})).faults.query("kind == 'fault'")
    reason = "engines.json: made with other settings than the configured ones: new_tokens"
    # They were measured with 32.
    assert any(reason in text for text in faults["text"]) == (tokens != 32)
