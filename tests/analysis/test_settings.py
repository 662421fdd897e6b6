"""Check that runs of different settings are never pooled, joined or compared."""

from collections.abc import Callable
from pathlib import Path

import pytest
from project import call_script
from sparseft.analysis.comparisons import compare
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.judgement import Judged, judge_runs
from sparseft.analysis.records import DECIDING_KEYS, WITHOUT_EFFECT, TrainingRecord, read_runs
from sparseft.analysis.settings import by_setting, outside
from sparseft.study.config import Config, Masks, Training

DENSE = "m-t-dense-sparsity00-sparse_to_dense-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
MASKED = TUNED.replace("to_dense", "to_sparse")
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"
OTHERS = {  # another value of every key of `training:` that decides a result
    "micro_batch_size": 4,
    "learning_rate": 0.002,
    "warmup_fraction": 0.2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "lora_r": 1,
    "lora_alpha": 8.0,
    "lora_dropout": 0.1,
    "lora_targets": ["q_proj"],
    "shard_model": True,
    "length_buckets": 1,
    "dtype": "float32",
    "backend": "cerebras",
}


def judged(tmp_path: Path) -> list[Judged]:
    return judge_runs(read_runs(tmp_path / "runs")[0])


def derived(tmp_path: Path) -> Derived:
    return derive(judged(tmp_path), 0.02)


def seed(run_id: str, number: int) -> str:
    return run_id.replace("seed0", f"seed{number}")


def test_every_key_of_training_decides_a_result_or_is_known_not_to():
    assert set(DECIDING_KEYS) | WITHOUT_EFFECT == set(Training.model_fields)
    assert set(DECIDING_KEYS) <= set(TrainingRecord.model_fields)
    assert set(OTHERS) - {"dtype", "backend"} == set(DECIDING_KEYS) - {"steps", "batch_size", "gradient"}


@pytest.mark.parametrize("name", OTHERS)
def test_seeds_that_were_trained_with_another_setting_are_not_averaged(write_run, tmp_path, name):
    write_run(TUNED, 0.25)
    write_run(seed(TUNED, 1), 0.75, training={name: OTHERS[name]})
    cells = derived(tmp_path).cells
    assert sorted(cells["value_mean"]) == [0.25, 0.75]
    assert cells["n"].tolist() == [1, 1]
    assert all(name in text for text in cells["setting"])
    assert [each.faults for each in judged(tmp_path)] == [[], []]


def test_seeds_that_were_trained_on_other_data_are_not_averaged(write_run, tmp_path):
    def other_data(files: dict) -> None:
        for name in ("train", "before_merge", "evaluation"):
            files[name]["inputs"]["train"] = "f" * 64

    write_run(TUNED, 0.25)
    write_run(seed(TUNED, 1), 0.75, change=other_data)
    cells = derived(tmp_path).cells
    assert cells["n"].tolist() == [1, 1]
    assert any("train.jsonl ffffffffffff" in text for text in cells["setting"])


def test_the_exact_and_the_straight_through_gradient_are_two_settings_of_one_mode_only(write_run, tmp_path):
    write_run(MASKED, 0.25)
    write_run(seed(MASKED, 1), 0.75, training={"gradient": "straight_through"})
    for number in (0, 1):
        gradient = ("exact", "straight_through")[number]
        write_run(seed(TUNED, number), 0.5, training={"gradient": gradient})
    cells = derived(tmp_path).cells.set_index("mode")
    assert cells.loc["sparse_to_sparse", "n"].tolist() == [1, 1]
    assert cells.loc["sparse_to_dense", "n"].tolist() == [2, 2]  # shared by both groups


def test_masks_of_another_scope_are_on_another_curve(write_run, tmp_path):
    def by_row(files: dict) -> None:
        files["validation_report"]["mask"]["scope"] = "row"

    write_run(UNTUNED, 0.5)
    write_run(UNTUNED.replace("50", "70"), 0.25, change=by_row)
    points = derived(tmp_path).points
    assert sorted(zip(points["setting"], points["sparsity"], strict=True)) == [
        ("unstructured scope layer", 50),
        ("unstructured scope row", 70),
    ]


OWL = {"owl_lambda": 0.08, "owl_m": 5.0, "calibration_examples": 128, "calibration_seed": 0, "train_sha256": "a" * 64}
SPARSEGPT = {"sparsegpt_block": 128, "sparsegpt_damping": 0.01, "original": "e" * 64}


def calibrated(meta: dict) -> Callable[[dict], None]:
    """Return a change that gives a run's mask this metadata, and the run the training data that calibrated the mask."""

    def change(files: dict) -> None:
        files["validation_report"]["mask"].update(meta)
        files["evaluation"]["inputs"]["train"] = meta["train_sha256"]

    return change


@pytest.mark.parametrize(
    ("method", "meta", "name", "value"),
    [
        ("unstructured_owl", OWL, "owl_lambda", 0.15),
        ("unstructured_owl", OWL, "owl_m", 7.0),
        ("unstructured_owl", OWL, "calibration_examples", 64),
        ("unstructured_owl", OWL, "calibration_seed", 1),
        ("semistructured_owl", OWL | {"nm_group": 4}, "nm_group", 8),
        ("unstructured_sparsegpt", OWL | SPARSEGPT, "sparsegpt_block", 64),
        ("unstructured_sparsegpt", OWL | SPARSEGPT, "sparsegpt_damping", 0.1),
    ],
)
def test_every_setting_of_an_allocation_and_of_sparsegpt_is_another_curve_and_a_column(
    write_run, tmp_path, method, meta, name, value
):
    values = (meta[name], value)
    run = UNTUNED.replace("unstructured", method)
    for sparsity, of_sparsity in zip((50, 70), values, strict=True):
        change = calibrated(meta | {name: of_sparsity})
        write_run(run.replace("50", str(sparsity)), sparsity / 100, change=change)
    tables = derived(tmp_path)
    assert sorted(zip(tables.points["setting"], tables.points["sparsity"], strict=True)) == sorted(
        (f"{method} {name} {of_sparsity}", sparsity) for sparsity, of_sparsity in zip((50, 70), values, strict=True)
    )
    if name != "calibration_seed":
        assert sorted(tables.runs[name]) == sorted(values)
    assert [each.faults for each in judged(tmp_path)] == [[], []]


def on_text(digest: str, length: int = 2048) -> Callable[[dict], None]:
    """Return a change that makes a run's mask one that calibrated on a text."""
    windows = {"calibration_examples": 128, "calibration_length": length, "calibration_seed": 0}
    meta = {"scope": "row", "sequential": True, "text_sha256": digest, **windows}
    return lambda files: files["validation_report"]["mask"].update(meta)


def test_masks_on_another_text_are_on_another_curve(write_run, tmp_path):
    run = UNTUNED.replace("unstructured", "unstructured_wanda_on_c4")
    write_run(run, 0.5, change=on_text("a" * 64))
    write_run(run.replace("50", "70"), 0.25, change=on_text("f" * 64))
    points = derived(tmp_path).points
    assert sorted(zip(points["setting"], points["sparsity"], strict=True)) == [
        ("unstructured_wanda_on_c4 calibration data aaaaaaaaaaaa", 50),
        ("unstructured_wanda_on_c4 calibration data ffffffffffff", 70),
    ]
    assert [each.faults for each in judged(tmp_path)] == [[], []]


@pytest.mark.long
def test_a_group_shares_the_dense_and_the_untrained_runs_that_it_agrees_with(write_run, tmp_path):
    write_run(UNTUNED, 0.25)
    for number, rate in ((0, 0.001), (1, 0.002)):
        for run_id in (DENSE, TUNED):
            write_run(seed(run_id, number), 0.5 + number / 4, training={"learning_rate": rate})
    tables = derived(tmp_path)
    points = tables.points[tables.points["mode"] == "sparse_to_dense"].set_index(["setting", "sparsity"])
    assert points.loc[("learning_rate 0.001", 50), ["value", "dense_value", "untuned_value"]].tolist() == [
        0.5,
        0.5,
        0.25,
    ]
    assert points.loc[("learning_rate 0.002", 50), ["value", "dense_value"]].tolist() == [0.75, 0.75]
    assert set(tables.comparisons["n"]) == {1}
    assert set(tables.comparisons["setting"]) == {"learning_rate 0.001", "learning_rate 0.002"}


def test_a_task_whose_runs_agree_has_no_setting_in_its_rows(write_run, tmp_path):
    write_run(TUNED, 0.25)
    write_run(seed(TUNED, 1), 0.75, training={"lora_r": 4})
    write_run(TUNED.replace("-t-", "-u-"), 0.5)
    groups = by_setting(read_runs(tmp_path / "runs")[0])
    assert {text: [record.run.task for record in members] for text, members in groups.items()} == {
        "lora_r 8": ["t"],
        "lora_r 4": ["t"],
        "": ["u"],
    }


@pytest.fixture
def study() -> Config:
    """Return the study that the fixture's runs of model m and task boolq_mini belong to."""
    return Config(
        models={"m": {"source": "path:m", "dtype": "bfloat16"}},
        tasks={"boolq_mini": {"train_examples": 480, "validation_examples": 200}},
        grid={"models": ["m"], "tasks": ["boolq_mini"], "methods": ["unstructured"], "sparsities": [0, 50],
              "modes": ["sparse_to_dense"], "seeds": [1]},
        training={"steps": 60, "learning_rate": 0.001},
    )  # fmt: skip


def test_runs_outside_the_configured_grid_are_named_and_in_no_aggregate(write_run, tmp_path, study):
    ours = TUNED.replace("-t-", "-boolq_mini-")
    write_run(ours, 0.25)
    write_run(seed(ours, 1), 0.75)
    records, _ = read_runs(tmp_path / "runs", study)
    named = outside(records, study)
    ((run, reason),) = named.items()
    assert run.id == ours
    assert "grid" in reason
    cells = derive(judge_runs(records, named), 0.02).cells
    assert (cells["runs"].tolist(), cells["value_mean"].tolist()) == ([1], [0.75])


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.003), ("lora_r", 2), ("lora_targets", ["q_proj"])])
def test_a_run_of_the_grid_with_other_settings_is_outside_the_study(write_run, tmp_path, study, name, value):
    write_run(seed(TUNED.replace("-t-", "-boolq_mini-"), 1), 0.75, training={name: value})
    (reason,) = outside(read_runs(tmp_path / "runs", study)[0], study).values()
    assert f" {name} {', '.join(value) if isinstance(value, list) else value} instead of " in reason


def test_a_mask_on_other_windows_than_the_configured_ones_is_outside_the_study(write_run, tmp_path, study):
    method = "unstructured_wanda_on_c4"
    grid = study.grid.model_copy(update={"methods": [method]})
    masks = Masks(calibration={"c4": {"text": "c4.jsonl", "length": 1024}})
    study = study.model_copy(update={"grid": grid, "masks": masks})
    ours = UNTUNED.replace("-t-unstructured-", f"-boolq_mini-{method}-")
    write_run(seed(ours, 1), 0.5, change=on_text("a" * 64))
    (reason,) = outside(read_runs(tmp_path / "runs", study)[0], study).values()
    assert "calibration_length 2048 instead of 1024" in reason
    (tmp_path / "runs").rename(tmp_path / "other")
    write_run(seed(ours, 1), 0.5, change=on_text("a" * 64, 1024))
    assert not outside(read_runs(tmp_path / "runs", study)[0], study)


@pytest.mark.parametrize(
    ("method", "meta", "name", "value"),
    [
        ("unstructured_owl", OWL, "owl_lambda", 0.15),
        ("unstructured_owl", OWL, "owl_m", 7.0),
        ("unstructured_sparsegpt", OWL | SPARSEGPT, "sparsegpt_block", 64),
        ("unstructured_sparsegpt", OWL | SPARSEGPT, "sparsegpt_damping", 0.1),
    ],
)
def test_a_mask_with_other_settings_than_the_configured_ones_is_outside_the_study(
    write_run, tmp_path, study, method, meta, name, value
):
    grid = study.grid.model_copy(update={"methods": [method]})
    study = study.model_copy(update={"grid": grid, "masks": Masks(**{name: value})})
    run = seed(UNTUNED.replace("-t-unstructured-", f"-boolq_mini-{method}-"), 1)
    write_run(run, 0.5, change=calibrated(meta))
    (reason,) = outside(read_runs(tmp_path / "runs", study)[0], study).values()
    assert f"{name} {meta[name]} instead of {value}" in reason


def test_what_the_configuration_asks_for_and_is_not_there_is_missing(write_run, tmp_path, study):
    write_run(seed(TUNED.replace("-t-", "-boolq_mini-"), 1), 0.75)
    gaps = read_runs(tmp_path / "runs", study)[1]
    assert [gap.run_id for gap in gaps] == [
        "m-boolq_mini-dense-sparsity00-no_finetune-seed1",
        "m-boolq_mini-dense-sparsity00-sparse_to_dense-seed1",
        "m-boolq_mini-unstructured-sparsity50-no_finetune-seed1",
    ]


def test_numbers_of_examples_and_a_perplexity_that_are_not_the_configured_ones_are_said(write_run, tmp_path, study):
    write_run(seed(TUNED.replace("-t-", "-boolq_mini-"), 1), 0.75, examples=100, training={"train_examples": 24},
              metrics={"wikitext2_ppl_2048": 20.0})  # fmt: skip
    (reason,) = outside(read_runs(tmp_path / "runs", study)[0], study).values()
    for words in ("100 validation examples instead of 200", "24 training examples instead of 480",
                  "perplexity over {2048} tokens instead of none"):  # fmt: skip
        assert words in reason


def test_groups_that_differ_in_opposite_ways_keep_all_their_runs(write_run, tmp_path):
    for number, (training, evaluation) in enumerate([("float32", "bfloat16"), ("bfloat16", "float32")]):
        write_run(seed(TUNED, number), 0.5, training={"dtype": training},
                  change=lambda files, dtype=evaluation: [files[name].update(dtype=dtype) for name in ("evaluation", "before_merge")])  # fmt: skip
    assert derived(tmp_path).cells["runs"].tolist() == [1, 1]


def test_a_layer_of_a_run_with_a_fault_is_in_no_table(write_run, tmp_path):
    write_run(UNTUNED, 0.5, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    assert derived(tmp_path).layers.empty


def named(run_id: str, training: str) -> str:
    return run_id.replace("-seed", f"-{training}-seed")


SHORT, LONG = {"learning_rate": 0.001, "lora_r": 8}, {"learning_rate": 0.005, "lora_r": 4}


@pytest.mark.parametrize("long", [LONG, SHORT])
def test_runs_of_two_trainings_are_never_averaged_even_with_the_same_settings(write_run, tmp_path, long):
    for number in (0, 1):
        write_run(seed(named(TUNED, "short"), number), 0.25, training=SHORT, selection=0.75)
        write_run(seed(named(TUNED, "long"), number), 0.75, training=long, selection=0.5)
    write_run(UNTUNED, 0.5)
    found = derived(tmp_path)
    # The tables are about the training that is better on the selection rows.
    (tuned,) = found.cells[found.cells["mode"] != "no_finetune"].itertuples()
    assert (tuned.setting, tuned.training, tuned.value_mean, tuned.n) == ("", "short", 0.25, 2)
    (untuned,) = found.comparisons[found.comparisons["comparison"] == "untuned"].itertuples()
    assert untuned.difference == -0.25
    assert found.runs["training"].tolist().count("") == 1
    assert [run.faults for run in judged(tmp_path)] == [[]] * 5


def test_without_selection_rows_no_training_of_two_is_reported(write_run, tmp_path):
    for name in ("short", "long"):
        write_run(named(TUNED, name), 0.25)
    write_run(UNTUNED, 0.5)
    found = derived(tmp_path)
    assert found.cells["mode"].tolist() == ["no_finetune"]
    assert found.runs.set_index("training")["chosen"].to_dict() == {"": True, "short": False, "long": False}


def test_runs_of_one_training_with_other_settings_are_apart(write_run, tmp_path):
    write_run(named(TUNED, "short"), 0.25, training=SHORT)
    write_run(seed(named(TUNED, "short"), 1), 0.75, training=LONG)
    cells = derived(tmp_path).cells
    assert sorted(cells["value_mean"]) == [0.25, 0.75]
    assert all("short learning_rate" in text for text in cells["setting"])


def test_two_trainings_may_not_differ_in_what_no_training_sets(write_run, tmp_path):
    write_run(named(TUNED, "short"), 0.25, training=SHORT)
    write_run(named(MASKED, "long"), 0.75, training=LONG, backend="cerebras")
    assert any("backend" in text for text in derived(tmp_path).cells["setting"])


def test_a_table_of_two_trainings_of_one_cell_is_an_error(write_run, tmp_path):
    write_run(named(TUNED, "short"), 0.25)
    write_run(named(TUNED, "long"), 0.75)
    with pytest.raises(ValueError, match="runs of the trainings long and short"):
        compare(judged(tmp_path))


def test_a_missing_run_of_a_training_is_a_gap(write_run, tmp_path):
    write_run(named(TUNED, "short"), 0.25)
    write_run(named(MASKED, "long"), 0.75)
    gaps = {gap.run_id for gap in read_runs(tmp_path / "runs")[1] if gap.left_out}
    assert gaps == {named(TUNED, "long"), named(MASKED, "short")}


def ended(files: dict) -> None:
    train = files["train"]
    train["loss_curve"] = train["loss_curve"][:20]
    train |= {"ended_early": {"step": 20, "loss": 9.0, "loss_above": 8.0}, "updates": 19}
    train["train_seconds"] /= 3
    train["tokens"] //= 3


@pytest.mark.long
def test_a_cell_with_a_training_that_ended_early_is_marked_and_supports_nothing(write_run, tmp_path):
    write_run(DENSE, 0.9)
    write_run(UNTUNED, 0.5)
    write_run(MASKED, 0.6)
    write_run(TUNED, 0.75)
    write_run(seed(TUNED, 1), 0.25, change=ended)
    found = derived(tmp_path)
    cell = found.cells[(found.cells["mode"] == "sparse_to_dense") & (found.cells["sparsity"] == 50)].iloc[0]
    assert (cell["n"], cell["n_sound"], cell["n_ended_early"]) == (2, 1, 1)
    assert found.cells["n_ended_early"].sum() == 1
    compared = found.comparisons
    assert len(compared)
    assert "sparse_to_dense" not in set(compared.loc[compared["sparsity"] == 50, "mode"])
    assert not (found.best["mode"] == "sparse_to_dense")[found.best["sparsity"] == 50].any()
    runs = found.runs.set_index("run_id")["ended_early"]
    assert runs.dropna().to_dict() == {seed(TUNED, 1): 20}
    words = {run.verdict for run in judged(tmp_path)}
    assert "ENDED EARLY" in words
    assert "FAULT" not in words
    # Every page says it.
    assert analyze_results(tmp_path) == 0
    memo = (tmp_path / "out/correctness_memo.md").read_text()
    assert "## Trainings that ended early" in memo
    assert (
        "ended at step 20 of 60, because the mean loss of the last steps was 9, above training.stop_if_loss_above 8"
        in memo
    )
    for page in ("EXPERIMENTS.md", "report.html"):
        text = (tmp_path / "out" / page).read_text()
        assert "ended early" in text
        assert "(ended early)" in text


def analyze_results(tmp_path: Path) -> int:
    return call_script("analyze_results.py", results_dir=tmp_path / "runs", output_dir=tmp_path / "out")[0]


@pytest.mark.parametrize("change", [{"step": 60}, {"loss": 7.0}, {"step": 19}])
def test_a_record_whose_early_end_contradicts_it_is_unsound(write_run, tmp_path, change):
    def contradict(files: dict) -> None:
        ended(files)
        files["train"]["ended_early"] |= change

    write_run(TUNED, 0.25, change=contradict)
    (gap,) = read_runs(tmp_path / "runs")[1]
    assert "train.json" in gap.reason
