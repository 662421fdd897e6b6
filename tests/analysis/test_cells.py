"""A cell pools the seeds of one training, which the selection rows choose; its numbers are those of its examples."""

from dataclasses import replace

import numpy as np
import pytest
from sparseft.analysis.cells import pool
from sparseft.analysis.study import read_study
from sparseft.axes.grid import Run


def run_id(mode: str = "sparse_to_sparse", training: str = "", seed: int = 0) -> str:
    return Run("m", "t", "unstructured", 50, mode, seed, training=training).id


def cells(folder, order=()):
    frames = read_study(folder)
    ranks = frames.runs["training"].map({name: rank for rank, name in enumerate(order)}).fillna(len(order))
    return pool(replace(frames, runs=frames.runs.assign(training_order=ranks)))


def test_runs_of_the_same_model_count_once(write_run, runs_dir):
    def same_model(files):
        files["merge"]["outputs"] = {"a": "b"}
        files["validation_report"]["inputs"]["checkpoint"] = files["evaluation"]["inputs"]["model"] = {"a": "b"}

    for seed in (0, 1):
        write_run(run_id(mode="no_finetune", seed=seed), change=same_model)
    assert cells(runs_dir)["seeds"].tolist() == [1]


def test_a_probe_has_a_value_with_an_interval_if_every_run_has_it(write_run, runs_dir):
    write_run(run_id(seed=0), probes={"p": 0.5, "q": 0.25})
    write_run(run_id(seed=1), probes={"p": 0.75})
    row = cells(runs_dir).iloc[0]
    assert row["probe_p"] == pytest.approx(0.625)
    assert row["probe_p_low"] < 0.625 < row["probe_p_high"]
    assert np.isnan(row["probe_q"])
    assert "probe_q_low" not in row


# What the trainings a, b and c have on the selection rows (value, loss), and which is chosen by what.
CHOICES = [
    ({"a": (0.5, 2.0), "b": (0.75, 3.0)}, "b", "value"),
    ({"a": (0.5, 2.0), "b": (0.5, 1.0)}, "b", "loss"),
    ({"a": (0.5, 2.0), "b": (0.5, 2.0)}, "b", "order"),
    ({"a": (0.5, 2.0), "b": (None, 1.0)}, "a", None),
]


@pytest.mark.parametrize(("trainings", "chosen", "decided_by"), CHOICES)
def test_the_selection_rows_choose_a_training_and_not_the_validation_rows(
    write_run, runs_dir, trainings, chosen, decided_by
):
    """Training a is the best on the validation rows. The configuration has b before a."""
    for name, (value, loss) in trainings.items():
        selection = {} if value is None else {"selection": value}
        write_run(run_id(training=name), 0.9 if name == "a" else 0.1, loss=loss, **selection)
    table = cells(runs_dir, ["b", "a"]).set_index("training")
    assert table.index[table["chosen"]].tolist() == [chosen]
    assert table.at[chosen, "decided_by"] == decided_by
    assert table["trainings_tried"].tolist() == [2, 2]


def test_the_teacher_of_a_named_training_belongs_to_its_name(write_run, runs_dir):
    for name, dense in (("plain", None), ("taught", "0" * 64)):
        change = lambda files, dense=dense: files["train"]["inputs"].update(dense=dense)  # noqa: E731
        write_run(run_id(training=name), selection=0.5, change=change)
    assert cells(runs_dir)["trainings_tried"].tolist() == [2, 2]


OBSTACLES = {
    "fault": lambda files: files["validation_report"].update(passed=False),
    "seed 1 has no run of the study": None,
    "a run has no result on the selection rows": lambda files: files.pop("selection"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_training_with_an_obstacle_is_not_chosen(write_run, runs_dir, obstacle):
    for name, seed in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        if (name, seed) != ("b", 1) or OBSTACLES[obstacle]:
            bad = OBSTACLES[obstacle] if (name, seed) == ("b", 1) else None
            value = {"a": 0.5, "b": 0.75}[name]
            write_run(run_id(training=name, seed=seed), selection=value, change=bad or (lambda files: None))
    table = cells(runs_dir).set_index("training")
    assert table.at["b", "obstacle"] == obstacle
    assert table["chosen"].to_dict() == {"a": True, "b": False}


def test_what_two_devices_took_is_blank(write_run, runs_dir):
    write_run(run_id(seed=0))
    write_run(run_id(seed=1), change=lambda files: files["train"].update(device="NVIDIA H100", train_seconds=1.0))
    row = cells(runs_dir).iloc[0]
    assert (row["seeds"], row["training_tokens"]) == (2, 48_000)
    names = ["device", "samples_per_second", "tokens_per_second", "train_seconds", "peak_memory_bytes"]
    assert row[names].isna().all()
