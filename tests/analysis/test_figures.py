"""The figures: what a reader must be able to tell apart, and that they show the frames."""

from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
from analysis.frames import CELLS, large_study, make_study, on_sampled_windows
from matplotlib.figure import Figure
from sparseft.analysis.figures import drawing, study_figures
from sparseft.analysis.tables import Results

pytestmark = pytest.mark.long


def drawn(study: Results) -> dict[str, Figure]:
    """Return the figures of a study by name."""
    return {figure.name: drawing(figure) for figure in study_figures(study)}


def bars(figure: Figure, axis: int = 1) -> set[tuple[float, float]]:
    """Return the ends of all error bars of a figure along an axis, rounded."""
    lines = [line for axes in figure.axes for bars in axes.containers for line in bars[2]]
    ends = [(start[axis], end[axis]) for line in lines for start, end in line.get_segments()]
    return {(round(low, 3), round(high, 3)) for low, high in ends if low == low}


# The default study at three sparsities, which are drawn as lines.
LINES = [*CELLS[:2], *((name, percent, *rest) for percent in (10, 20, 30) for name, _, *rest in CELLS[2:])]


def test_a_study_has_a_line_per_method_and_a_panel_per_model_and_mode():
    figures = drawn(large_study())
    figure = figures["boolq_mini_acc_vs_sparsity"]
    titles = [
        f"{model}\n{mode}" for model in ("llama_3.2_1b", "mistral") for mode in ("no_finetune", "sparse_to_sparse")
    ]
    assert [axes.get_title() for axes in figure.axes] == titles
    for axes in figure.axes:
        methods = {bars.get_label() for bars in axes.containers}
        assert methods == {"unstructured_wanda", "unstructured_sparsegpt_owl_on_wikitext2"}
    assert {name.removeprefix("boolq_mini_") for name in figures if name.startswith("boolq_mini")} == {
        "acc_vs_sparsity", "loss_vs_sparsity",
    }  # fmt: skip


def test_the_bars_are_the_intervals_of_the_frame_and_every_line_begins_in_its_dense_model():
    study = make_study(LINES)
    figure = drawn(study)["hellaswag_mini_acc_vs_sparsity"]
    assert bars(figure) == set(study.curves[["value_low", "value_high"]].round(3).itertuples(index=False, name=None))
    starts = [[bars[0].get_xydata()[0].tolist() for bars in axes.containers] for axes in figure.axes]
    assert starts == [[[0, 62 / 64]] * 3, [[0, 1.0]] * 3]
    # They end at the sparsity that was reached, a little apart.
    ends = [[bars[0].get_xdata()[-1] for bars in axes.containers] for axes in figure.axes]
    assert ends == [pytest.approx([30, 22.5, 30], abs=0.6)] * 2 and len(set(ends[0])) == 3


def test_few_sparsities_have_a_row_per_method_before_and_after_training_and_dense_as_a_line():
    study = make_study()
    figure = drawn(study)["hellaswag_mini_acc_vs_sparsity"]
    (axes,) = figure.axes
    pruned = study.curves[study.curves["sparsity"] > 0]
    assert bars(figure, axis=0) == set(pruned[["value_low", "value_high"]].round(3).itertuples(index=False, name=None))
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "unstructured 10 %", "structured 10 (7.5) %", "random 10 %",
    ]  # fmt: skip
    assert [bars.get_label() for bars in axes.containers] == ["untrained", "after sparse_to_sparse"]
    levels = {line.get_label(): line.get_xdata()[0] for line in axes.lines if line.get_label()[0] != "_"}
    assert levels == {"original model": 62 / 64, "dense with LoRA": 1.0, "guessing": 0.25}


def test_each_setting_has_its_own_figures_and_a_loss_has_no_second_one():
    study = make_study()
    curves = pd.concat([study.curves.assign(setting=f"steps={number}") for number in (1, 2)], ignore_index=True)
    names = list(drawn(replace(study, curves=curves)))
    assert [name.partition("_")[0] for name in names] == ["setting1"] * 2 + ["setting2"] * 2
    loss = drawn(make_study(by_loss=True))
    assert [name for name in loss if "vs_sparsity" in name] == ["hellaswag_mini_loss_vs_sparsity"]
    assert list(drawn(on_sampled_windows())) == ["hellaswag_mini_divergence_vs_sparsity"]


def test_of_lines_that_lie_on_each_other_each_is_seen():
    study = make_study(LINES)
    curves = study.curves.assign(value=0.5, value_low=0.4, value_high=0.6)
    figure = drawn(replace(study, curves=curves))["hellaswag_mini_acc_vs_sparsity"]
    for axes in figure.axes:
        lines = [bars[0] for bars in axes.containers]
        widths = [line.get_linewidth() for line in lines]
        assert [line.get_zorder() for line in lines] == sorted(line.get_zorder() for line in lines)
        # What is drawn first is seen on both sides of what is drawn later, by a pixel or more, and the levels lie on
        # top.
        assert all(before - after >= 1 for before, after in pairwise(widths))
        levels = [line for line in axes.lines if line.get_label() in ("dense", "guessing")]
        assert min(line.get_zorder() for line in levels) > max(line.get_zorder() for line in lines)
