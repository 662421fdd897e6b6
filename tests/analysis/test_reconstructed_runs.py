"""The analysis of runs that are reconstructed, and of those that start from them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.findings import findings, headline
from sparseft.analysis.judgement import Judged, judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.settings import outside
from sparseft.study.config import Config

DENSE = "m-t-dense-sparsity00-{}-seed0"
CELL = "m-t-unstructured-sparsity50-{}-seed0"
# The right answers of 100 by mode, dense and at 50 %.
DENSE_VALUES = {"no_finetune": 94, "sparse_to_dense": 99}
VALUES = {
    "no_finetune": 60,
    "sparse_to_dense": 70,
    "sparse_to_sparse": 72,
    "reconstruct": 90,
    "reconstruct_to_sparse": 88,
}


def reconstructed(**changes: object) -> Callable[[dict], None]:
    """Return a change that makes the training of a run a reconstruction."""
    part = {"examples": 16, "seed": 0, "layers": [{"error_before": 4.0, "error_after": 1.0},
                                                  {"error_before": 8.0, "error_after": 6.0}]}  # fmt: skip

    def change(files: dict) -> None:
        files["train"]["reconstruction"] = part | changes

    return change


@pytest.fixture
def study(write_run, tmp_path: Path) -> Callable[..., list[Judged]]:
    """Return a function that writes runs in all modes, with another schedule of the reconstruction, and judges them.

    `changes` are those of the run that starts from the reconstructed one."""

    def write(**changes: object) -> list[Judged]:
        for mode, right in DENSE_VALUES.items():
            write_run(DENSE.format(mode), right / 100, examples=100)
        of_mode = {
            "reconstruct": {"change": reconstructed(), "training": {"learning_rate": 0.02}},
            "reconstruct_to_sparse": changes or {"start": CELL.format("reconstruct")},
        }
        for mode, right in VALUES.items():
            write_run(CELL.format(mode), right / 100, **{"examples": 100, **of_mode.get(mode, {})})
        return judge_runs(read_runs(tmp_path / "runs")[0])

    return write


@pytest.fixture
def tables(study) -> Derived:
    return derive(study(), 0.02)


def test_another_schedule_of_the_reconstruction_is_no_other_setting(tables):
    assert set(tables.cells["setting"]) == {""}
    assert (tables.cells["n_sound"] == 1).all()


def test_each_mode_is_compared_with_what_it_should_be(tables):
    rows = tables.comparisons
    pairs = {(row.mode, row.comparison): row.against for row in rows[rows["sparsity"] > 0].itertuples()}
    of_cell, of_dense = (name.removesuffix("-seed0") for name in (CELL, DENSE))
    assert pairs["reconstruct", "dense"] == of_dense.format("no_finetune")
    assert pairs["reconstruct_to_sparse", "dense"] == of_dense.format("sparse_to_dense")
    assert pairs["sparse_to_sparse", "modes"] == of_cell.format("sparse_to_dense")
    for mode in ("reconstruct", "reconstruct_to_sparse"):
        assert pairs[mode, "modes"] == of_cell.format("sparse_to_sparse")
        assert pairs[mode, "untuned"] == of_cell.format("no_finetune")
    assert any("In mode reconstruct, against sparse_to_sparse (one seed, " in text for text in findings(tables, 0.02))


def test_what_a_reconstruction_wins_back_is_a_share_of_the_loss_to_the_original_model(tables):
    points = tables.points[tables.points["sparsity"] == 50].set_index("mode")
    assert points.loc["reconstruct", "recovered_share"] == pytest.approx((90 - 60) / (94 - 60))
    assert points.loc["reconstruct_to_sparse", "recovered_share"] == pytest.approx((88 - 60) / (99 - 60))


def test_the_headline_names_the_mode_and_the_dense_model_that_it_is_compared_with(tables):
    text = headline(tables, 0.02)[0]
    assert "LoRA (reconstruct)" in text
    assert "dense without fine-tuning: 0.94" in text


def test_the_columns_hold_the_error_and_no_loss_of_another_kind(tables):
    runs = tables.runs.set_index("mode")
    assert runs.loc["reconstruct", "reconstruction_error"] == pytest.approx((1 / 4 + 6 / 8) / 2)
    assert runs["reconstruction_error"].notna().sum() == 1
    assert runs["final_train_loss"].isna()["reconstruct"]
    assert runs["final_train_loss"].notna()["reconstruct_to_sparse"]


def test_a_run_that_did_not_start_from_the_reconstructed_adapter_is_a_fault(study):
    place = f"adapter of {CELL.format('reconstruct')}"
    # The second one names no adapter.
    for changes in ({"start": CELL.format("sparse_to_sparse")}, {"examples": 100}):
        faults = {run.record.run.mode: run.faults for run in study(**changes)}
        assert place in faults["reconstruct_to_sparse"][0]
        assert place in faults["reconstruct"][0]
    assert not any(run.faults for run in study())


def test_seeds_that_were_reconstructed_on_other_examples_are_not_averaged(write_run, tmp_path):
    run = CELL.format("reconstruct")
    write_run(run, 0.5, change=reconstructed())
    write_run(run.replace("seed0", "seed1"), 0.75, change=reconstructed(examples=8))
    cells = derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02).cells
    assert set(cells["setting"]) == {"reconstruction examples 16", "reconstruction examples 8"}


def test_a_run_whose_start_could_not_be_read_is_not_fully_checked(study, tmp_path):
    start = CELL.format("reconstruct")
    reason = f"{start}, from which it starts, could not be read"
    assert not any(reason in run.unchecked for run in study())
    (tmp_path / f"runs/{start}/evaluation.json").write_text("{}")
    judged = {run.record.run.mode: run for run in judge_runs(read_runs(tmp_path / "runs")[0])}
    assert "reconstruct" not in judged
    assert reason in judged["reconstruct_to_sparse"].unchecked


@pytest.mark.parametrize(
    ("changes", "training", "name"),
    [
        ({"examples": 8}, {}, "examples"),
        ({"seed": 1}, {}, "seed"),
        ({"length": 64, "text_sha256": "a" * 64}, {}, "text"),
        ({}, {"learning_rate": 0.04}, "learning_rate"),
        ({}, {"micro_batch_size": 4}, "micro_batch_size"),
    ],
)
def test_seeds_that_start_from_other_reconstructions_are_not_averaged(write_run, tmp_path, changes, training, name):
    text = {"length": 64, "text_sha256": "f" * 64} if "length" in changes else {}
    for seed, (part, schedule) in enumerate([(text, {}), (changes, training)]):
        start = CELL.format("reconstruct").replace("seed0", f"seed{seed}")
        write_run(start, 0.5, change=reconstructed(**part), training={"learning_rate": 0.02} | schedule)
        write_run(start.replace("reconstruct", "reconstruct_to_sparse"), 0.5 + seed / 4, start=start)
    cells = derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02).cells
    second = cells[cells["mode"] == "reconstruct_to_sparse"]
    assert sorted(second["value_mean"]) == [0.5, 0.75]
    assert all(f"reconstruction {name} " in setting for setting in second["setting"])


def test_a_reconstruction_with_other_settings_than_the_configured_ones_is_outside_the_study(study):
    config = Config.model_validate({
        "models": {"m": {"source": "path:m"}},
        "tasks": {"t": {"lm_eval": "arc_easy", "train_examples": 480, "validation_examples": 100}},
        "grid": {"models": ["m"], "tasks": ["t"], "methods": ["unstructured"], "sparsities": [0, 50], "modes": ["reconstruct", "reconstruct_to_sparse"]},
        "training": {"steps": 60},
        "reconstruction": {"examples": 12, "steps": 60, "learning_rate": 0.02},
    })  # fmt: skip
    reasons = outside([run.record for run in study()], config)
    of_mode = {run.mode: text for run, text in reasons.items()}
    # The run that starts from the reconstruction has its own schedule, and is compared in the reconstruction's too.
    assert all("examples 16 instead of 12" in of_mode[mode] for mode in ("reconstruct", "reconstruct_to_sparse"))
    assert "learning_rate" not in of_mode["reconstruct"]


@pytest.mark.parametrize("text", [None, "c4"])
def test_a_reconstruction_on_a_text_is_not_one_on_the_task_s_examples(write_run, tmp_path, text):
    config = Config.model_validate({
        "models": {"m": {"source": "path:m"}},
        "tasks": {"t": {"lm_eval": "arc_easy", "train_examples": 480, "validation_examples": 200}},
        "grid": {"models": ["m"], "tasks": ["t"], "methods": ["unstructured"], "sparsities": [50], "modes": ["reconstruct"], "seeds": [0, 1]},
        "masks": {"calibration": {"c4": {"text": "c4.jsonl", "length": 64}}},
        "training": {"steps": 60},
        "reconstruction": {"examples": 16, "steps": 60, "learning_rate": 0.02, "calibration": text},
    })  # fmt: skip
    on_text = {"length": 64, "text_sha256": "f" * 64}
    for seed, part in enumerate([on_text, {}]):
        name = CELL.format("reconstruct").replace("seed0", f"seed{seed}")
        write_run(name, 0.5, change=reconstructed(**part), training={"learning_rate": 0.02})
    records = read_runs(tmp_path / "runs")[0]
    cells = derive(judge_runs(records), 0.02).cells
    assert cells[cells["mode"] == "reconstruct"]["n"].tolist() == [1, 1]
    (other,) = [run for run, reason in outside(records, config).items() if "length" in reason]
    assert other.seed == (1 if text else 0)
