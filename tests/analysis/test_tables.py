"""Compare the tables with cases worked out by hand."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from scipy import stats
from sparseft.analysis import tables
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.records.merge_record import files_digest
from sparseft.analysis.tables import asked_and_reached
from statsmodels.stats.proportion import proportion_confint

DENSE_TUNED = "m-t-dense-sparsity00-sparse_to_dense-seed0"
DENSE_UNTUNED = "m-t-dense-sparsity00-no_finetune-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"


def read(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    runs = tables.summary(judge_runs(read_runs(tmp_path / "runs")[0]))
    cells = tables.grouped(runs)
    return runs, cells, tables.curves(cells)


def test_three_runs_by_hand(write_run, tmp_path):
    write_run(DENSE_TUNED, 0.75)
    write_run(UNTUNED, 0.25)
    write_run(TUNED, 0.5)
    points = read(tmp_path)[2].set_index(["mode", "sparsity"])
    # Pruning took 0.75 - 0.25 = 0.5; fine-tuning gave 0.5 - 0.25 = 0.25 of it back.
    tuned = points.loc[("sparse_to_dense", 50)]
    assert (tuned["dense_value"], tuned["difference_to_dense"], tuned["untuned_value"]) == (0.75, -0.25, 0.25)
    assert tuned["recovered_share"] == 0.5
    # The dense fine-tuned run is point 0 of the fine-tuned curve only: there is no untuned dense run.
    assert list(points.index) == [("no_finetune", 50), ("sparse_to_dense", 0), ("sparse_to_dense", 50)]
    assert points.loc[("sparse_to_dense", 0), "value"] == 0.75
    assert pd.isna(points.loc[("no_finetune", 50), "dense_value"])


def test_the_dense_run_starts_both_fine_tuned_curves_of_every_method(write_run, tmp_path):
    write_run(DENSE_TUNED, 0.75)
    write_run(DENSE_UNTUNED, 0.625)
    for method in ("unstructured", "random"):
        for mode in ("sparse_to_dense", "sparse_to_sparse", "no_finetune"):
            write_run(f"m-t-{method}-sparsity50-{mode}-seed0", 0.5)
    points = read(tmp_path)[2]
    start = points[points["sparsity"] == 0].set_index(["method", "mode"])["value"].to_dict()
    expected = {"no_finetune": 0.625, "sparse_to_dense": 0.75, "sparse_to_sparse": 0.75}
    assert start == {(method, mode): value for method in ("unstructured", "random") for mode, value in expected.items()}


def test_a_point_has_the_choices_with_which_its_speed_was_measured(write_run, tmp_path):
    write_run(TUNED, 0.5, training={"gradient_checkpointing": True})
    write_run(TUNED.replace("50", "70"), 0.5, training={"cache_weights": True})
    write_run(UNTUNED, 0.5)
    points = read(tmp_path)[2].set_index(["mode", "sparsity"])[tables.SPEED_CHOICES]
    assert points.loc[("sparse_to_dense", 50)].tolist() == [True, False]
    assert points.loc[("sparse_to_dense", 70)].tolist() == [False, True]
    assert points.loc[("no_finetune", 50)].isna().all()
    write_run(TUNED.replace("seed0", "seed1"), 0.5)
    assert (
        read(tmp_path)[2]
        .set_index(["mode", "sparsity"])
        .loc[("sparse_to_dense", 50), tables.SPEED_CHOICES]
        .isna()
        .all()
    )


@pytest.mark.parametrize(
    ("dense", "untuned", "tuned", "share"), [(0.75, 0.25, 0.75, 1), (0.75, 0.25, 0.25, 0), (0.5, 0.25, 0.75, 2)]
)
def test_recovered_share(write_run, tmp_path, dense, untuned, tuned, share):
    write_run(DENSE_TUNED, dense)
    write_run(UNTUNED, untuned)
    write_run(TUNED, tuned)
    assert read(tmp_path)[2]["recovered_share"].dropna().tolist() == [share]


@pytest.mark.parametrize("missing", ["dense", "untuned", "loss"])
def test_recovered_share_is_blank_where_undefined(write_run, tmp_path, missing):
    write_run(TUNED, 0.5)
    if missing != "dense":
        write_run(DENSE_TUNED, 0.75)
    if missing != "untuned":
        write_run(UNTUNED, 0.75 if missing == "loss" else 0.25)  # loss: pruning lost nothing
    assert read(tmp_path)[2]["recovered_share"].isna().all()


def test_mean_and_deviation_over_seeds(write_run, tmp_path):
    for seed, value, speed in [(0, 0.25, 3.0), (1, 0.5, 5.0)]:
        write_run(TUNED.replace("seed0", f"seed{seed}"), value, speed=speed, examples=100)
    cell = read(tmp_path)[1].iloc[0]
    assert (cell["n"], cell["value_mean"], cell["samples_per_second_mean"]) == (2, 0.375, 4)
    assert cell["value_sd"] == pytest.approx(0.125 * 2**0.5)
    assert cell["samples_per_second_sd"] == pytest.approx(2**0.5)
    errors = [(value * (1 - value) / 99) ** 0.5 for value in (0.25, 0.5)]
    assert cell["standard_error"] == pytest.approx(sum(errors) / 2)  # not over sqrt(2): the examples are the same


def test_the_interval_over_seeds_is_at_least_student_s(write_run, tmp_path):
    for seed, value in enumerate([0.25, 0.5, 0.75]):
        write_run(TUNED.replace("seed0", f"seed{seed}"), value)
    write_run(DENSE_TUNED, 0.75)
    _, cells, points = read(tmp_path)
    cell = cells.set_index("method").loc["unstructured"]
    half = 4.30265273 * 0.25 / 3**0.5  # two degrees of freedom, 97.5 %: any table
    assert half > 0.5  # and a share lies between 0 and 1
    assert (cell["value_low"], cell["value_high"], cell["value_interval_from"]) == (0, 1, "seeds and examples")
    error = cells.set_index("method").loc["unstructured", "value_sd"] / 3**0.5
    assert half == pytest.approx(4.30265273 * error)
    assert points.set_index("sparsity").loc[50, "value_low"] == cell["value_low"]


def test_an_interval_is_never_narrower_than_its_examples_allow(write_run, tmp_path):
    for seed in (0, 1):  # two seeds that agree by chance
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, examples=12)
    write_run(DENSE_TUNED, 1.0, examples=12)
    cells = read(tmp_path)[1].set_index("method")
    for method, count in (("unstructured", 6), ("dense", 12)):  # Wilson's interval, as statsmodels has it
        ends = proportion_confint(count, 12, method="wilson")
        assert cells.loc[method, ["value_low", "value_high"]].tolist() == pytest.approx(ends)
    assert cells["value_interval_from"].to_dict() == {"unstructured": "seeds and examples", "dense": "examples"}
    assert cells.loc["dense", "value_low"] < 0.8  # twelve right answers do not show 1.000


def test_equal_losses_of_all_seeds_keep_the_width_that_the_examples_give(write_run, tmp_path):
    for seed in (0, 1, 2):
        write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, loss=2.0)
    runs, cells, _ = read(tmp_path)
    cell, error = cells.iloc[0], runs["eval_loss_standard_error"].mean()
    half = stats.t.ppf(0.975, 199) * error
    assert error > 0
    assert (cell["eval_loss_low"], cell["eval_loss_high"]) == pytest.approx((2 - half, 2 + half))
    assert cell["eval_loss_interval_from"] == "seeds and examples"


def test_untrained_runs_of_two_seeds_are_one_model(write_run, tmp_path):
    def one_model(files: dict) -> None:
        same = {"model.safetensors": "a" * 64}
        files["merge"]["outputs"] = files["validation_report"]["inputs"]["checkpoint"] = same
        files["evaluation"]["inputs"]["model"] = same

    for seed in (0, 1):
        write_run(UNTUNED.replace("seed0", f"seed{seed}"), 0.5, change=one_model)
    cell = read(tmp_path)[1].iloc[0]
    assert (cell["runs"], cell["n"], cell["n_sound"]) == (2, 1, 1)
    assert pd.isna(cell["value_sd"])


def test_the_sparsity_that_was_reached_stands_beside_the_one_asked_for(write_run, tmp_path):
    def coarse(files: dict) -> None:
        report = files["validation_report"]
        report["expected_sparsity"] = report["actual_sparsity"] = report["sparsity_within_tolerance"] = 0.6
        for row in report["layers"]:
            row.update(pruned=600, zeros=600)

    write_run(TUNED.replace("unstructured", "structured"), 0.5, change=coarse)
    for table in read(tmp_path):
        row = table[table["method"] == "structured"].iloc[0]
        assert (row["sparsity"], row["reached_sparsity"]) == (50, 0.6)


@pytest.mark.parametrize(("sparsity", "reached", "text"), [
    (60, 38 / 64, "60 (59.4)"), (60, 346 / 576, "60 (60.1)"), (60, 2458 / 4096, "60"), (10, 0.075, "10 (7.5)"),
    (10, 0.1000005, "10"), (0, 0.0, "0"),
])  # fmt: skip
def test_a_sparsity_that_rows_or_channels_miss_is_shown_with_the_one_that_they_reach(sparsity, reached, text):
    assert asked_and_reached(SimpleNamespace(sparsity=sparsity, reached_sparsity=reached)) == text


def test_every_setting_of_a_training_is_in_the_summary(write_run, tmp_path):
    settings = {"learning_rate": 0.002, "lora_r": 4, "lora_alpha": 8.0, "warmup_fraction": 0.2, "train_examples": 24}
    write_run(TUNED, 0.5, training=settings | {"lora_targets": ["q_proj", "v_proj"]})
    row = read(tmp_path)[0].iloc[0]
    assert {name: row[name] for name in settings} == settings
    assert row["lora_targets"] == "q_proj v_proj"


def test_the_interval_is_over_the_seeds_that_have_the_value(write_run, tmp_path):
    for seed, speed in enumerate([4.0, 5.0, 9.0]):
        folder = write_run(TUNED.replace("seed0", f"seed{seed}"), 0.5, speed=speed)
    (folder / "train.json").unlink()
    (row,) = tables.grouped(tables.summary(judge_runs(read_runs(tmp_path / "runs")[0]))).itertuples()
    assert (row.n, row.samples_per_second_mean) == (3, 4.5)
    _, high = stats.t.interval(0.95, 1, 4.5, 0.5)
    assert (row.samples_per_second_low, row.samples_per_second_high) == pytest.approx((0, high))  # no speed is negative


@pytest.mark.parametrize("other", [{"device": "GPU"}, {"batch_size": 4}])
def test_speeds_of_unlike_runs_are_never_averaged(write_run, tmp_path, other):
    write_run(TUNED, 0.25, speed=3.0)
    write_run(TUNED.replace("seed0", "seed1"), 0.5, speed=30.0, **other)
    _, cells, _ = read(tmp_path)
    assert cells["samples_per_second_mean"].isna().all()
    assert cells["value_mean"].tolist() == [0.375]


def test_whole_numbers_stay_whole_beside_blanks(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(UNTUNED, 0.25)
    tables.write_csv(read(tmp_path)[0], tmp_path / "summary.csv")
    untuned, tuned = pd.read_csv(tmp_path / "summary.csv", dtype=str, keep_default_na=False).to_dict("records")
    assert (tuned["peak_memory_bytes"], tuned["steps"], tuned["examples"]) == ("1500000000", "60", "200")
    assert (tuned["evaluation_peak_memory_bytes"], tuned["evaluation_seconds"]) == ("1250000000", "12.5")
    assert untuned["peak_memory_bytes"] == untuned["train_merge_gap"] == untuned["adapter_sha256"] == ""


def test_an_evaluation_that_recorded_no_memory_has_a_blank(write_run, tmp_path):
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"].pop("peak_memory_bytes"))
    runs, _, _ = read(tmp_path)
    assert (runs["value"].tolist(), runs["evaluation_peak_memory_bytes"].isna().tolist()) == ([0.5], [True])


def forty_noes_and_forty_of_160_yeses(outcomes: list[float]) -> list[int]:
    """Return labels by which 40 of the right answers are no, and all others yes."""
    labels, right = [1] * len(outcomes), [number for number, hit in enumerate(outcomes) if hit]
    for number in right[:40]:
        labels[number] = 0
    return labels


def test_every_metric_has_its_column_blank_where_a_task_has_it_not(write_run, tmp_path):
    yes_no = {"f1": "0.4", "recall_no": "1", "recall_yes": "0.25", "majority_floor": "0.8"}
    metrics = {"wikitext2_ppl_2048": 19.5}
    write_run(TUNED, 0.4, labels=forty_noes_and_forty_of_160_yeses, classes=True, metrics=metrics)
    write_run("m-g-unstructured-sparsity50-no_finetune-seed0", 0.25, generated=True)
    tables.write_csv(read(tmp_path)[0], tmp_path / "summary.csv")
    other, row = pd.read_csv(tmp_path / "summary.csv", dtype=str, keep_default_na=False).to_dict("records")
    assert {name: row[name] for name in yes_no} == yes_no
    assert 0.02 < float(row["f1_stderr"]) < 0.09
    assert (row["acc"], row["wikitext2_ppl_2048"], other["wikitext2_ppl_2048"]) == ("0.4", "19.5", "")
    assert (other["exact_match_flexible-extract"], row["exact_match_flexible-extract"]) == ("0.25", "")
    assert {other[name] for name in (*yes_no, "acc_norm")} == {""}
    cell = read(tmp_path)[1].set_index("task").loc["t"]
    assert (cell["recall_no"], cell["recall_yes"], cell["majority_floor"]) == (1, 0.25, 0.8)


def test_rows_follow_the_study_and_not_the_alphabet(write_run, tmp_path):
    for run_id in [
        "m-t-random-sparsity50-no_finetune-seed10",
        UNTUNED,
        TUNED,
        "m-t-random-sparsity50-no_finetune-seed9",
        DENSE_TUNED,
    ]:
        write_run(run_id, 0.5)
    rows = read(tmp_path)[0][["method", "mode", "seed"]].itertuples(index=False, name=None)
    assert list(rows) == [
        ("dense", "sparse_to_dense", 0),
        ("unstructured", "no_finetune", 0),
        ("unstructured", "sparse_to_dense", 0),
        ("random", "no_finetune", 9),
        ("random", "no_finetune", 10),
    ]


def test_methods_that_calibrate_on_a_text_follow_those_of_the_task():
    column = pd.Series(["random", "unstructured_wanda_on_c4", "unstructured_wanda", "dense"], name="method")
    table = tables.tidy(pd.DataFrame({"method": column}), ["method"])
    assert table["method"].tolist() == ["dense", "random", "unstructured_wanda", "unstructured_wanda_on_c4"]


def test_digest_of_several_files_is_that_of_their_sha256sum_listing():
    # printf 'aa  1.safetensors\nbb  2.safetensors\n' | sha256sum
    assert files_digest({"2.safetensors": "bb", "1.safetensors": "aa"}).startswith("f3c3be5bfd2f4ba5")
    assert files_digest({"model.safetensors": "aa"}) == "aa"
