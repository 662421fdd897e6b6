"""The figures: what a reader must be able to tell apart."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sparseft.analysis import plots
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.findings import findings
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs
from sparseft.study.grid import MEASURED

SPARSITIES = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def derived(tmp_path: Path) -> Derived:
    """Return the tables of the runs that were written."""
    return derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02)


def figures(tmp_path: Path) -> Iterator[tuple[str, Figure]]:
    """Return the figures of the runs that were written."""
    study = derived(tmp_path)
    return ((plot.name, build()) for plot, build in plots.run_figures(study.points, study.best))


def layer_figures(layers: pd.DataFrame) -> dict[str, plots.Drawing]:
    """Return the drawings of the layers' sparsities by name."""
    return {plot.name: build for plot, build in plots.layer_figures(layers)}


def uneven(files: dict) -> None:
    """Make the first of 14 layers the largest, with nothing but zeros."""
    rows = files["validation_report"]["layers"]
    rows[0].update(weights=3000, pruned=1500, zeros=3000)
    # A checkpoint has its own order.
    rows.reverse()
    sparsity = (3000 + 13 * 500) / (3000 + 13 * 1000)
    files["validation_report"].update(actual_sparsity=sparsity, sparsity_within_tolerance=sparsity)


def batch_sizes(cells: list[tuple[str, int]]) -> pd.DataFrame:
    """Return the throughput table of these methods and sparsities, at batch sizes 4 and 8."""
    return pd.DataFrame([
        {"model": "m", "task": "t", "method": method, "sparsity": sparsity, "mode": "sparse_to_dense", "training": "", "device": "CPU",
         "batch_size": size, "status": MEASURED, "n": 3, "tokens_per_sample": 10, "peak_memory_bytes": 10**9,
         "memory_limit_bytes": 2 * 10**9, "peak_memory_kind": "resident", "memory_limit_kind": "private",
         **{f"{unit}_per_second_{end}": size for unit in ("samples", "tokens") for end in ("mean", "low", "high")}}
        for method, sparsity in cells for size in (4, 8)
    ])  # fmt: skip


def colours(cells: list[tuple[str, int]]) -> dict[str, set[str]]:
    """Return the colours of each line in all panels, by its label."""
    ((_, build),) = plots.throughput_figures(batch_sizes(cells))
    figure = build()
    by_label: dict[str, set[str]] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if not label.startswith("memory limit"):
                by_label.setdefault(label, set()).add(to_hex(handle.lines[0].get_color()))
    return by_label


def test_every_sparsity_has_its_own_colour_from_dark_to_light_and_dense_is_black():
    by_label = colours([("unstructured" if sparsity else "dense", sparsity) for sparsity in SPARSITIES])
    assert by_label.pop("dense, plain LoRA") == {"#000000"}
    lightness = [sum(bytes.fromhex(colour[1:])) for one in by_label.values() for colour in one]
    assert len(lightness) == len(SPARSITIES) - 1
    assert lightness == sorted(set(lightness))


def test_a_sparsity_has_the_same_colour_in_every_column():
    by_label = colours([("unstructured", 50), ("unstructured", 80), ("random", 80)])
    assert [len(one) for one in by_label.values()] == [1, 1]


@pytest.mark.parametrize(("floor", "levels"), [(True, {"chance", "one answer to all"}), (False, {"chance"})])
def test_what_one_answer_to_all_scores_is_drawn_where_the_task_has_it(write_run, tmp_path, floor, levels):
    write_run("m-t-random-sparsity50-no_finetune-seed0", 0.5, labels=lambda _: [0] * 120 + [1] * 80, classes=floor)
    _, figure = next(figures(tmp_path))
    assert {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]} == levels | {"no_finetune"}


def test_speeds_of_two_devices_never_share_a_panel(write_run, tmp_path):
    for sparsity, device in ((30, "CPU: x"), (50, "CPU: x"), (70, "GPU: y")):
        write_run(f"m-t-random-sparsity{sparsity}-sparse_to_dense-seed0", 0.5, speed=sparsity, device=device)
    drawn = dict(figures(tmp_path))
    by_sparsity, against = drawn["t_speed_vs_sparsity"], drawn["t_acc_vs_speed"]
    assert [len(axes.lines[0].get_xdata()) for axes in by_sparsity.axes] == [2, 1]
    assert [axes.get_ylim()[0] for axes in by_sparsity.axes] == [0, 0]
    assert [axes.get_ylim()[1] > speed for axes, speed in zip(by_sparsity.axes, (50, 70), strict=True)] == [True, True]
    assert [axes.get_title() for axes in against.axes] == ["m on CPU: x", "m on GPU: y"]
    assert against.axes[0].lines[0].get_xdata().tolist() == [30, 50]


@pytest.mark.long
def test_speeds_of_trainings_that_cannot_be_compared_never_share_a_front(write_run, tmp_path):
    for sparsity, value, saves_memory in ((30, 0.5, True), (50, 0.6, False), (70, 0.4, True)):
        training = {"gradient_checkpointing": saves_memory}
        write_run(f"m-t-random-sparsity{sparsity}-sparse_to_dense-seed0", value, speed=sparsity, training=training)
    drawn = dict(figures(tmp_path))
    assert [len(axes.lines[0].get_xdata()) for axes in drawn["t_speed_vs_sparsity"].axes] == [2, 1]
    against = drawn["t_acc_vs_speed"]
    fronts = {axes.get_title().replace("\n", " ").rpartition(", ")[2]: _front_line(axes) for axes in against.axes}
    assert fronts == {"with gradient_checkpointing": [30, 70], "without gradient_checkpointing": [50]}
    sentences = [text for text in findings(derived(tmp_path), 0.02) if "value and training speed" in text]
    assert len(sentences) == 2
    assert "random 30 %" in sentences[0] and "random 50 %" not in sentences[0]


def _front_line(axes) -> list[float]:
    return next(line.get_xdata().tolist() for line in axes.lines if line.get_label() == "Pareto front")


def test_layers_are_drawn_by_block_and_by_kind_weighted_by_their_weights(write_run, tmp_path):
    write_run("m-t-random-sparsity50-no_finetune-seed0", 0.5, layers=14, change=uneven)
    write_run("m-t-dense-sparsity00-no_finetune-seed0", 0.5, layers=14)
    layers = derived(tmp_path).layers
    assert len(layers) == 14
    by_block, by_kind = (build().axes[0].collections[0] for build in layer_figures(layers).values())
    assert by_block.get_array().ravel().tolist() == [pytest.approx(100 * 6000 / 9000), 50]
    assert by_kind.get_array().ravel().tolist() == [pytest.approx(100 * 3500 / 4000), *[50] * 6]


def test_a_mask_that_looks_at_a_task_has_a_panel_per_task_and_another_one_panel(write_run, tmp_path):
    for method, task in product(("random", "unstructured_wanda"), "tu"):
        write_run(f"m-{task}-{method}-sparsity50-no_finetune-seed0", 0.5, layers=14, change=uneven)
    figure = layer_figures(derived(tmp_path).layers)["m_sparsity_by_block"]()
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert titles == ["random", "unstructured_wanda\nt", "unstructured_wanda\nu"]


def test_layers_of_one_sparsity_are_not_drawn(write_run, tmp_path):
    write_run("m-t-random-sparsity50-no_finetune-seed0", 0.5, layers=14)
    layers = derived(tmp_path).layers
    assert layers["sparsity_mean"].tolist() == [0.5] * 14
    assert layer_figures(layers) == {}
    layers.loc[3, "sparsity_mean"] = 0.6
    assert list(layer_figures(layers)) == ["m_sparsity_by_block", "m_sparsity_by_projection"]


def test_a_merge_that_adds_nothing_is_not_drawn(write_run, tmp_path):
    write_run("m-t-random-sparsity50-sparse_to_dense-seed0", 0.5, loss=2.0, loss_before=2.0)
    assert "t_train_merge_gap" not in dict(figures(tmp_path))


def test_every_panel_of_a_row_holds_the_fastest_training_of_it(write_run, tmp_path):
    for method, speed in (("unstructured", 3.0), ("random", 30.0)):
        write_run(f"m-t-{method}-sparsity50-sparse_to_dense-seed0", 0.5, speed=speed)
    limits = [axes.get_ylim() for axes in dict(figures(tmp_path))["t_speed_vs_sparsity"].axes]
    assert all(low == 0 and high > 30 for low, high in limits)


@pytest.mark.parametrize(("task", "toy"), [("boolq_mini", True), ("boolq", False)])
def test_a_caption_says_of_a_generated_task_that_it_is_a_toy(write_run, tmp_path, task, toy):
    write_run(f"m-{task}-random-sparsity50-no_finetune-seed0", 0.5)
    study = derived(tmp_path)
    (first, _), *_ = plots.run_figures(study.points, study.best)
    assert (first.kind, first.task) == ("value", task)
    assert ("toy" in first.caption) == toy


def test_a_metric_with_any_name_of_a_filter_has_a_figure(write_run, tmp_path):
    def rename(files: dict) -> None:
        result = files["evaluation"]
        result["metric"] = "overlap_first/last"
        result["metrics"] = {
            "overlap_first/last": result["value"],
            "overlap_stderr_first/last": result["standard_error"],
        }

    write_run("m-t-random-sparsity50-no_finetune-seed0", 0.5, fractions=True, definition=True, change=rename)
    drawn = dict(figures(tmp_path))
    assert "t_overlap_first_last_vs_sparsity" in drawn
    assert "first/last" in drawn["t_overlap_first_last_vs_sparsity"].get_supylabel()


@pytest.mark.long
def test_the_gap_is_drawn_only_of_trained_runs(write_run, tmp_path):
    write_run("m-t-random-sparsity50-no_finetune-seed0", 0.5)
    assert not [name for name, _ in figures(tmp_path) if "gap" in name or "speed" in name]
    write_run("m-t-random-sparsity50-sparse_to_dense-seed0", 0.5, loss=2.5, loss_before=2.25)
    (axes,) = dict(figures(tmp_path))["t_train_merge_gap"].axes
    assert axes.lines[0].get_ydata().tolist() == [0.25]


@pytest.mark.long
def test_every_setting_has_figures_of_its_own(write_run, tmp_path):
    for sparsity, rate in ((30, 0.001), (50, 0.002)):
        write_run(f"m-t-random-sparsity{sparsity}-sparse_to_dense-seed0", 0.5, training={"learning_rate": rate})
    drawn = dict(figures(tmp_path))
    for number, (sparsity, rate) in enumerate(((30, "0.001"), (50, "0.002")), 1):
        figure = drawn[f"setting{number}_t_acc_vs_sparsity"]
        assert [round(place) for place in figure.axes[0].lines[0].get_xdata()] == [sparsity]
        assert f"learning_rate {rate}" in figure.get_suptitle().replace("\n", " ")


def test_a_point_is_drawn_at_the_sparsity_that_was_reached(write_run, tmp_path):
    def coarse(files: dict) -> None:
        report = files["validation_report"]
        report["expected_sparsity"] = report["actual_sparsity"] = report["sparsity_within_tolerance"] = 0.6
        for row in report["layers"]:
            row.update(pruned=600, zeros=600)

    write_run("m-t-structured-sparsity50-sparse_to_dense-seed0", 0.5, change=coarse)
    figure = dict(figures(tmp_path))["t_acc_vs_sparsity"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [pytest.approx(60)]
