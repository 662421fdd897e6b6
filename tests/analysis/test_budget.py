"""Compare the costs of trainings in budget.csv with cases worked out by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sparseft.analysis import tuning_text
from sparseft.analysis.columns import BUDGET
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.findings import ONE_SEED, findings, headline
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.plots import compute_figures
from sparseft.analysis.records import read_measurements, read_runs
from sparseft.analysis.records.throughput_record import MeasuredInputs
from test_throughput_table import write_cell

pytestmark = pytest.mark.long

RUN = "m-t-unstructured-sparsity50-{mode}-{training}-seed{seed}"
MODES = ("sparse_to_dense", "sparse_to_sparse")
STEPS = {"short": 20, "long": 60}


def write_study(write_run, modes=MODES, seeds=(0, 1)) -> None:
    """Write a short and a long training of each mode, of 8 examples per step; the long one is better."""
    write_run("m-t-dense-sparsity00-no_finetune-seed0", 0.5)
    write_run("m-t-unstructured-sparsity50-no_finetune-seed0", 0.25)
    for mode in modes:
        for training, steps in STEPS.items():
            for seed in seeds:
                better = 0.1 if training == "long" else 0
                run_id = RUN.format(mode=mode, training=training, seed=seed)
                write_run(run_id, 0.5 + better, selection=0.6 + better, change=lambda files, n=steps: shorten(files, n))


def shorten(files: dict, steps: int) -> None:
    """Let a training have `steps` steps of 800 tokens at 4 examples per second."""
    train = files["train"]
    train.update(steps=steps, updates=steps - 1, loss_curve=train["loss_curve"][:1] * steps)
    train.update(train_seconds=8 * steps / 4, tokens=800 * steps)


def analysed(tmp_path: Path, measurements=()) -> Derived:
    records, gaps = read_runs(tmp_path / "runs")
    return derive(judge_runs(records), 0.02, gaps, measurements=measurements)


def test_compute_is_the_tokens_that_the_steps_read(write_run, tmp_path):
    write_study(write_run)
    table = analysed(tmp_path).budget.set_index(["mode", "training"])
    assert len(table) == 4
    long = table.loc[("sparse_to_sparse", "long")]
    # 60 steps of 8 examples and 800 tokens.
    assert long[["runs", "steps", "batch_size", "examples_seen", "training_tokens"]].tolist() == [2, 60, 8, 480, 48000]
    assert table.loc[("sparse_to_sparse", "short"), "training_tokens"] == 16000
    assert pd.isna(long["measured_seconds"])
    assert table["chosen"].to_dict() == {(mode, training): training == "long" for mode in MODES for training in STEPS}
    assert (long["selection_value"], long["value"]) == (pytest.approx(0.7), pytest.approx(0.6))


def test_the_columns_are_those_that_the_docs_describe(write_run, tmp_path):
    write_study(write_run, seeds=(0,))
    table = analysed(tmp_path).budget
    assert list(table) == BUDGET.names
    # No measurement and no obstacle, and a choice in some rows. Everything else has a value in every row.
    assert set(table.columns[table.isna().any()]) == {"measured_seconds", "decided_by", "obstacle"}


def test_a_mode_that_continues_a_run_pays_for_that_run_too(write_run, tmp_path):
    write_study(write_run, ("reconstruct", "reconstruct_to_sparse"), seeds=(0,))
    table = analysed(tmp_path).budget
    tokens = {(row.mode, row.training): row.training_tokens for row in table.itertuples()}
    assert tokens["reconstruct_to_sparse", "long"] == 2 * tokens["reconstruct", "long"] == 96000


def test_seconds_are_those_of_the_stage_throughput_at_the_same_batch_size_and_device(write_run, tmp_path):
    write_study(write_run)
    path = write_cell(tmp_path, "m-t-unstructured-sparsity50-sparse_to_dense-long")
    (measurement,) = read_measurements([path])
    (run, *_) = [record for record in read_runs(tmp_path / "runs")[0] if record.train]
    inputs = MeasuredInputs(**run.train.inputs.model_dump(include={"model", "mask", "train"}))
    alike = {
        name: getattr(run.train, name)
        for name in ("device", "processes", "gradient", "lora_r", "gradient_checkpointing")
    }
    same = measurement.model_copy(update={"inputs": inputs, **alike})
    (batch,) = [batch for batch in same.batches if batch.batch_size == 8]
    rates = [repeat.samples / repeat.seconds for repeat in batch.repeats]
    seconds = analysed(tmp_path, [same]).budget.set_index(["mode", "training"])["measured_seconds"].dropna()
    assert seconds.to_dict() == {("sparse_to_dense", "long"): pytest.approx(480 / (sum(rates) / len(rates)))}
    differing = [
        *({"inputs": inputs.model_copy(update={name: "f" * 64})} for name in ("model", "mask", "train")),
        *({name: value} for name, value in (("device", "another"), ("processes", 9), ("gradient", "another"))),
        *({name: value} for name, value in (("lora_r", 999), ("sequence_length", 64), ("inputs", None))),
        {"gradient_checkpointing": not run.train.gradient_checkpointing},
    ]
    for changes in differing:
        other = same.model_copy(update=changes)
        assert analysed(tmp_path, [other]).budget["measured_seconds"].isna().all(), changes


def test_the_sentences_say_over_how_many_trainings_each_mode_was_tuned(write_run, tmp_path):
    write_study(write_run)
    derived = analysed(tmp_path)
    (modes,) = [line for line in findings(derived, 0.02) if "against sparse_to_dense" in line and "values" in line]
    assert "(each tuned over 2 trainings, chosen on 80 selection examples)" in modes
    untuned = [line for line in findings(derived, 0.02) if "against no fine-tuning" in line]
    assert all("(tuned over 2 trainings, chosen on 80 selection examples)" in line for line in untuned)
    assert "best of 2 trainings" in " ".join(headline(derived, 0.02))


def test_one_seed_is_said_to_be_about_the_models_only(write_run, tmp_path):
    write_study(write_run, seeds=(0,))
    (modes,) = [
        line for line in findings(analysed(tmp_path), 0.02) if "against sparse_to_dense" in line and "values" in line
    ]
    assert ONE_SEED in modes
    assert "none of 1 values" in modes


def test_the_section_names_the_settings_the_choice_and_what_could_not_be_chosen(write_run, tmp_path):
    write_study(write_run)
    (tmp_path / "runs" / RUN.format(mode=MODES[0], training="short", seed=1) / "selection.json").unlink()
    derived = analysed(tmp_path)
    records, _ = read_runs(tmp_path / "runs")
    text = tuning_text.section(derived.budget, records)
    assert "2 trained cells were tuned over 2 trainings each" in text
    assert "(80 examples)" in text
    assert "| long | steps 60 | 2 of 2 cells | 0 |" in text
    assert "| short | steps 20 | 0 of 2 cells | 1 |" in text
    cell = "m-t-unstructured-sparsity50-sparse_to_dense"
    assert f"- training short: seed 1 has no result on the selection rows, in {cell}\n" in text


def test_without_a_choice_there_is_no_section_and_no_figure(write_run, tmp_path):
    write_run("m-t-unstructured-sparsity50-sparse_to_dense-seed0", 0.5)
    derived = analysed(tmp_path)
    assert tuning_text.section(derived.budget, []) == ""
    assert list(compute_figures(derived.budget)) == []
    assert "chosen" not in derived.runs


def test_the_figure_has_a_panel_per_cell_and_a_line_per_mode(write_run, tmp_path):
    write_study(write_run)
    ((plot, build),) = compute_figures(analysed(tmp_path).budget)
    (axes,) = build().axes
    assert plot.name == "t_acc_vs_compute"
    _, labels = axes.get_legend_handles_labels()
    assert sorted(set(labels)) == ["chosen", *MODES]
    assert axes.get_xscale() == "log"
    rings = np.concatenate([points.get_offsets() for points in axes.collections if points.get_label() == "chosen"])
    assert rings[:, 1].tolist() == pytest.approx([0.7, 0.7])
    assert rings[:, 0].tolist() == pytest.approx([48000, 48000], rel=0.05)
