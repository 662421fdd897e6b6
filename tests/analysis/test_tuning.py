"""Check the choice of a training: by the selection rows only, over complete and sound trainings, before anything is averaged."""

import random
from pathlib import Path

import pandas as pd
import pytest
from sparseft.analysis.claims import Results
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.tuning import Selected, Trial, TunedCell, best
from sparseft.errors import InputError
from sparseft.study.grid import Cell

DENSE = "m-t-dense-sparsity00-{mode}-seed0"
RUN = "m-t-unstructured-sparsity50-{mode}-{training}-seed{seed}"
MODES = ("sparse_to_dense", "sparse_to_sparse")
# The values on the selection rows by training, of two seeds. `high` has the best seed, and `mid` the best mean.
SELECTION = {"low": (0.5, 0.55), "mid": (0.6, 0.65), "high": (0.4, 0.7)}
RATES = {"low": 0.0001, "mid": 0.001, "high": 0.01}


def write_study(write_run, value=lambda mode, training, seed: 0.5, selection=SELECTION, **changes) -> None:
    """Write two modes with three trainings and two seeds each; `value` returns the value on the validation rows."""
    write_run(DENSE.format(mode="no_finetune"), 0.5)
    for mode in MODES:
        for training, values in selection.items():
            for seed, selected in enumerate(values):
                name = RUN.format(mode=mode, training=training, seed=seed)
                settings = {"learning_rate": RATES[training]}
                write_run(name, value(mode, training, seed), selection=selected, training=settings, **changes)


def analysed(tmp_path: Path, **settings: object) -> Derived:
    records, gaps = read_runs(tmp_path / "runs")
    return derive(judge_runs(records), 0.02, gaps, **settings)


def chosen(derived: Derived) -> dict[str, str]:
    """Return the chosen training by mode."""
    cells = derived.cells[derived.cells["method"] != "dense"]
    return dict(zip(cells["mode"], cells["training"], strict=True))


def trial(training: str, value: float, loss: float, metric: str = "acc", obstacle: str = "") -> Trial:
    return Trial(training, (), Selected(metric, value, 0.1, loss, 80), obstacle)


def test_the_best_mean_over_the_seeds_is_chosen_and_the_validation_value_is_reported(write_run, tmp_path):
    write_study(write_run, lambda mode, training, seed: {"low": 0.75, "mid": 0.25, "high": 0.75}[training])
    derived = analysed(tmp_path)
    assert chosen(derived) == dict.fromkeys(MODES, "mid")
    tuned = derived.cells[derived.cells["method"] != "dense"]
    assert tuned["value_mean"].tolist() == [0.25, 0.25]
    assert tuned["trainings_tried"].tolist() == [3, 3]
    assert tuned["n"].tolist() == [2, 2]
    points = derived.points[derived.points["sparsity"] == 50]
    assert points["training"].tolist() == ["mid", "mid"]


# What a study could report on the validation rows, by mode, training and seed.
ADVERSARIAL = {
    "constant": lambda mode, training, seed: 0.5,
    "reversed": lambda mode, training, seed: 1 - SELECTION[training][seed],
    "the worst wins": lambda mode, training, seed: {"low": 1.0, "mid": 0.0, "high": 1.0}[training],
    "the chosen wins": lambda mode, training, seed: {"low": 0.0, "mid": 1.0, "high": 0.0}[training],
    "permuted": lambda mode, training, seed: random.Random(f"{mode} {training} {seed}").randint(0, 40) / 40,
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_no_validation_value_and_no_validation_loss_changes_the_choice(write_run, tmp_path, name):
    write_study(write_run, ADVERSARIAL[name])
    derived = analysed(tmp_path)
    assert chosen(derived) == dict.fromkeys(MODES, "mid")
    table = derived.budget[derived.budget["training"] == "mid"]
    assert table["chosen"].all()
    assert table["selection_value"].tolist() == pytest.approx([0.625, 0.625])


def test_a_selection_value_changes_the_choice_of_its_mode_only(write_run, tmp_path):
    write_study(write_run)
    for seed in (0, 1):
        write_run(
            RUN.format(mode=MODES[0], training="low", seed=seed), 0.5, selection=0.9, training={"learning_rate": 0.0001}
        )
    assert chosen(analysed(tmp_path)) == {MODES[0]: "low", MODES[1]: "mid"}


def test_validation_results_under_the_name_of_the_selection_choose_nothing(write_run, tmp_path):
    write_study(write_run, lambda mode, training, seed: 1.0 if training == "low" else 0.5)
    for seed in (0, 1):
        folder = tmp_path / "runs" / RUN.format(mode=MODES[0], training="low", seed=seed)
        (folder / "selection.json").write_bytes((folder / "evaluation.json").read_bytes())
    derived = analysed(tmp_path)
    assert chosen(derived) == dict.fromkeys(MODES, "mid")
    row = derived.budget[(derived.budget["training"] == "low") & (derived.budget["mode"] == MODES[0])].iloc[0]
    assert "no result on the selection rows" in row["obstacle"]
    assert pd.isna(row["selection_value"])


def test_runs_that_are_not_chosen_are_only_in_the_summary_and_the_budget(write_run, tmp_path):
    write_study(write_run)
    derived = analysed(tmp_path)
    assert len(derived.runs) == 1 + 2 * 3 * 2
    assert derived.runs.groupby("training")["chosen"].agg(["all", "any"]).to_dict("index") == {
        "": {"all": True, "any": True},
        "high": {"all": False, "any": False},
        "low": {"all": False, "any": False},
        "mid": {"all": True, "any": True},
    }
    assert derived.cells["runs"].sum() == 1 + 2 * 2
    assert derived.layers["n"].tolist() == [4, 4]
    assert len(derived.budget) == 6
    pair = derived.comparisons[derived.comparisons["comparison"] == "modes"].iloc[0]
    assert pair[["n", "training", "against_training", "trainings_tried", "against_trainings_tried"]].tolist() == [
        2, "mid", "mid", 3, 3,
    ]  # fmt: skip


def test_two_modes_with_different_best_trainings_are_compared(write_run, tmp_path):
    write_study(write_run)
    for seed in (0, 1):
        write_run(
            RUN.format(mode=MODES[0], training="low", seed=seed), 0.5, selection=0.9, training={"learning_rate": 0.0001}
        )
    derived = analysed(tmp_path)
    pair = derived.comparisons[derived.comparisons["comparison"] == "modes"].iloc[0]
    assert (pair["training"], pair["against_training"]) == ("mid", "low")
    assert set(derived.cells["setting"]) == {""}


def test_a_training_that_lacks_a_seed_cannot_be_chosen_and_is_named(write_run, tmp_path):
    write_study(write_run, selection={**SELECTION, "high": (0.9,)})
    derived = analysed(tmp_path)
    assert chosen(derived) == dict.fromkeys(MODES, "mid")
    obstacles = derived.budget.set_index(["mode", "training"])["obstacle"].dropna()
    assert set(obstacles.index.get_level_values("training")) == {"high"}
    assert obstacles.str.startswith("seed 1 has no run of the study").all()
    assert set(derived.budget["trainings_tried"]) == {3}


def test_a_training_with_a_faulty_run_cannot_be_chosen(write_run, tmp_path):
    write_study(write_run)
    name = RUN.format(mode=MODES[0], training="mid", seed=0)
    write_run(name, 0.5, selection=0.6, training={"learning_rate": 0.001},
              change=lambda files: files["validation_report"].update(passed=False, violations=1))  # fmt: skip
    assert chosen(analysed(tmp_path)) == {MODES[0]: "high", MODES[1]: "mid"}


def test_a_training_that_ended_early_cannot_be_chosen_and_is_in_no_mean(write_run, tmp_path):
    write_study(write_run)

    def end(files: dict) -> None:
        files["train"]["ended_early"] = {"step": 20, "loss": 9.0, "loss_above": 5.0}
        files["train"].update(updates=19, loss_curve=files["train"]["loss_curve"][:20])
        files["train"]["train_seconds"] *= 20 / 60
        files["train"]["tokens"] //= 3

    write_run(
        RUN.format(mode=MODES[0], training="mid", seed=1),
        0.5,
        selection=0.65,
        training={"learning_rate": 0.001},
        change=end,
    )
    derived = analysed(tmp_path)
    assert chosen(derived) == {MODES[0]: "high", MODES[1]: "mid"}
    (obstacle,) = derived.budget["obstacle"].dropna()
    assert obstacle.startswith("seed 1 ended at step 20 of 60")
    assert derived.cells["n_ended_early"].sum() == 0


def test_a_cell_in_which_nothing_can_be_chosen_is_in_no_mean(write_run, tmp_path):
    write_study(write_run)
    for training in SELECTION:
        (tmp_path / "runs" / RUN.format(mode=MODES[0], training=training, seed=1) / "selection.json").unlink()
    derived = analysed(tmp_path)
    assert chosen(derived) == {MODES[1]: "mid"}
    assert not derived.runs.loc[derived.runs["mode"] == MODES[0], "chosen"].any()
    assert not derived.budget.loc[derived.budget["mode"] == MODES[0], "chosen"].any()
    for training in SELECTION:
        (tmp_path / "runs" / RUN.format(mode=MODES[1], training=training, seed=1) / "selection.json").unlink()
    (tmp_path / "runs" / DENSE.format(mode="no_finetune") / "evaluation.json").unlink()
    with pytest.raises(InputError, match="no training of any cell"):
        analysed(tmp_path)


@pytest.mark.parametrize(("without_choice", "largest"), [(None, 70), (50, 30)])
def test_a_sparsity_without_a_choice_ends_what_is_within_the_tolerance(write_run, tmp_path, without_choice, largest):
    write_run(DENSE.format(mode="sparse_to_dense"), 0.9)
    for sparsity in (30, 50, 70):
        for training in ("low", "mid"):
            run_id = f"m-t-unstructured-sparsity{sparsity}-sparse_to_dense-{training}-seed0"
            selection = {} if sparsity == without_choice else {"selection": 0.5}
            write_run(run_id, 0.9, training={"learning_rate": RATES[training]}, **selection)
    records, gaps = read_runs(tmp_path / "runs")
    derived = derive(judge_runs(records), 0.2, gaps)
    assert derived.best[derived.best["largest_within"]]["sparsity"].tolist() == [largest]
    assert Results(derived).undecided == ({without_choice} - {None})


def test_one_training_needs_no_selection(write_run, tmp_path):
    for training in ("", "-only"):
        for seed in (0, 1):
            mode = "sparse_to_dense" if training else "sparse_to_sparse"
            write_run(f"m-t-unstructured-sparsity50-{mode}{training}-seed{seed}", 0.5)
    derived = analysed(tmp_path)
    assert derived.cells["training"].tolist() == ["only", ""]
    assert derived.cells["trainings_tried"].tolist() == [1, 1]
    assert derived.budget["obstacle"].isna().all()


def test_equal_values_are_decided_by_the_loss_and_then_by_the_order():
    assert best([trial("a", 0.5, 2.0), trial("b", 0.5, 1.5)]).training == "b"
    assert best([trial("b", 0.5, 2.0), trial("a", 0.5, 2.0)]).training == "b"
    # 0.1 + 0.2 is not 0.3 in binary.
    assert best([trial("a", 0.3, 2.0), trial("b", 0.1 + 0.2, 1.0)]).training == "b"
    assert best([trial("a", 2.0, 2.0, "loss"), trial("b", 1.5, 1.5, "loss")]).training == "b"
    assert best([trial("a", 0.9, 1.0, obstacle="seed 1 has no run of the study"), trial("b", 0.5, 1.5)]).training == "b"
    assert best([trial("a", 0.9, 1.0, obstacle="seed 1 has no run of the study")]) is None


def test_what_decided_is_said_and_a_training_that_cannot_be_chosen_decides_nothing():
    def decided(*trials: Trial) -> str | None:
        return TunedCell(Cell("m", "t", "unstructured", 50, "sparse_to_dense"), trials).decided_by

    first = trial("a", 0.5, 2.0)
    assert decided(first, trial("b", 0.4, 1.0)) == "value"
    assert decided(first, trial("b", 0.5, 3.0)) == "loss"
    assert decided(first, trial("b", 0.5, 2.0)) == "order"
    assert decided(first, trial("b", 0.5, 2.0, obstacle="seed 1 has a fault"), trial("c", 0.4, 1.0)) == "value"
    assert decided(first) is None


def with_one_model(files: dict) -> None:
    """Change the files of a run as if all runs had the same merged model."""
    places = [files["merge"]["outputs"], files["validation_report"]["inputs"]["checkpoint"]]
    for place in [*places, files["evaluation"]["inputs"]["model"], files["selection"]["inputs"]["model"]]:
        place["model.safetensors"] = "a" * 64


@pytest.mark.parametrize(("change", "tried"), [(with_one_model, 1), (lambda files: None, 3)])
def test_trainings_that_made_the_same_model_count_once(write_run, tmp_path, change, tried):
    for training in RATES:
        write_run(RUN.format(mode="sparse_to_sparse", training=training, seed=0), 0.5, selection=0.5, change=change)
    derived = analysed(tmp_path)
    assert derived.budget["trainings_tried"].tolist() == [tried] * 3
    assert derived.budget["decided_by"].notna().sum() == (tried > 1)
    assert set(derived.cells["trainings_tried"]) == {tried}


@pytest.mark.parametrize("order", [["high", "mid", "low"], ["low", "mid", "high"]])
def test_the_order_of_the_configuration_decides_between_equal_trainings(write_run, tmp_path, order):
    same = dict.fromkeys(SELECTION, (0.6, 0.65))
    write_study(write_run, selection=same)
    derived = analysed(tmp_path, trainings=order)
    # The losses of the selection rows are equal, too.
    assert chosen(derived) == dict.fromkeys(MODES, order[0])
    assert derived.budget["training"].tolist() == order * 2
    decided = derived.budget["decided_by"]
    assert decided.dropna().tolist() == ["order"] * 2
    assert decided.notna().tolist() == derived.budget["chosen"].tolist()


def test_a_lower_loss_is_chosen_where_the_metric_is_the_loss(write_run, tmp_path):
    for training, loss in (("low", 1.5), ("high", 2.5)):
        write_run(f"m-t-unstructured-sparsity50-sparse_to_dense-{training}-seed0", loss, by_loss=True, selection=loss)
    assert chosen(analysed(tmp_path)) == {"sparse_to_dense": "low"}


@pytest.mark.parametrize("trainings", [("mid",), ("low", "mid")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_does_not_show_which_of_two_modes_is_better(write_run, tmp_path, trainings, seeds):
    for mode, value in zip(MODES, (0.25, 0.75), strict=True):
        for training in trainings:
            for seed in range(seeds):
                name = RUN.format(mode=mode, training=training, seed=seed)
                write_run(name, value, selection=0.5, training={"learning_rate": RATES[training]})
    pair = analysed(tmp_path).comparisons.iloc[0]
    assert (pair["comparison"], pair["n"], pair["p_holm"] < 0.001) == ("modes", seeds, True)
    assert pair["significant"] == (seeds == 2)
