"""Any two cells are compared over the same examples; a question's comparisons are corrected together and get one word."""

import numpy as np
import pytest
from sparseft.analysis.statistics import holm
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute
from sparseft.study.config import Analysis

METHODS = ("unstructured", "structured", "random")
MODES = ("no_finetune", "sparse_to_dense", "sparse_to_sparse")


def run_id(method="unstructured", sparsity="50", mode="sparse_to_sparse", seed=0) -> str:
    return f"m-t-{method}-sparsity{sparsity}-{mode}-seed{seed}"


def results(folder, **options):
    return compute(read_study(folder), Analysis(**options))


@pytest.fixture
def grid(write_run, runs_dir):
    """Write three methods in three modes at 50 %, the two dense runs, and return their folder."""
    for mode, value in (("no_finetune", 0.9), ("sparse_to_dense", 0.95)):
        write_run(run_id("dense", "00", mode), value, loss=1.0, probes={"p": 0.5})
    for number, method in enumerate(METHODS):
        for mode in MODES:
            write_run(run_id(method, mode=mode), 0.85 - 0.25 * number, loss=1.5 + number, probes={"p": 0.25})
    return runs_dir


def pairs(table) -> set[tuple]:
    return set(table[["method", "mode", "against_method", "against_mode"]].itertuples(index=False, name=None))


EXPECTED = {
    "dense": {(m, mode, "dense", "no_finetune" if mode == "no_finetune" else "sparse_to_dense")
              for m in METHODS for mode in MODES},
    "untuned": {(m, mode, m, "no_finetune") for m in METHODS for mode in MODES[1:]}
               | {("dense", "sparse_to_dense", "dense", "no_finetune")},
    "modes": {(m, "sparse_to_sparse", m, "sparse_to_dense") for m in METHODS},
    "methods": {(a, mode, b, mode) for mode in MODES for a, b in (("unstructured", "structured"),
                ("unstructured", "random"), ("structured", "random"))},
    "against": {(m, mode, "random", mode) for m in METHODS[:2] for mode in MODES},
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "questions"),
    [
        ({}, {"dense", "untuned", "modes", "methods"}),
        ({"compare": ["dense"]}, {"dense", "against"}),
        ({"compare": ["methods"], "against": "random"}, {"methods", "against"}),
        ({"compare": ["modes", "untuned"], "against": "random"}, {"modes", "untuned", "against"}),
    ],
)
def test_a_study_asks_its_questions(grid, options, questions):
    table = results(grid, **options).comparisons
    assert set(table["question"]) == questions
    for question, own in table.query("metric == 'acc'").groupby("question"):
        assert pairs(own) == EXPECTED[question]
        assert len(own) == len(EXPECTED[question])
        assert (own["comparisons"] == len(own)).all()
        np.testing.assert_allclose(own["p_holm"], holm(own["p_value"].to_numpy()))


def test_five_methods_are_not_compared_in_pairs_unless_you_ask(grid, write_run):
    for method in ("unstructured_wanda", "unstructured_ria"):
        write_run(run_id(method))
    assert set(results(grid).comparisons["question"]) == {"dense", "untuned", "modes", "against"}


def test_each_probe_is_a_metric_of_its_own_without_a_loss(grid):
    table = results(grid).comparisons.query("question == 'dense' and metric == 'probe_p'")
    assert pairs(table) == EXPECTED["dense"]
    assert table["difference"].tolist() == pytest.approx([-0.25] * 9)
    assert table["eval_loss_difference"].isna().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files["evaluation"]["inputs"].update(data="other"),
        lambda files: files["evaluation"].update(distinct_prompts=50),
        lambda files: files["validation_report"].update(passed=False),
    ],
)
def test_cells_with_a_fault_or_repeated_examples_are_not_compared(write_run, runs_dir, change):
    write_run(run_id("dense", "00", "no_finetune"))
    write_run(run_id(mode="no_finetune"), change=change)
    assert results(runs_dir).comparisons.empty


VERDICTS = [
    # dense, pruned, tolerance, verdict; 60 examples
    (0.9, 0.3, 0.02, "lower"),
    (0.5, 0.95, 0.02, "higher"),
    (0.9, 0.9, 0.5, "within"),
    (0.9, 0.85, 0.01, "not told apart"),
    (0.25, 0.2, 0.5, None),
]


@pytest.mark.parametrize(("dense", "pruned", "tolerance", "verdict"), VERDICTS)
def test_a_verdict_is_one_word_that_the_interval_supports(write_run, runs_dir, dense, pruned, tolerance, verdict):
    """A dense model with the chance of a guess, 0.25, has nothing to lose."""
    write_run(run_id("dense", "00", "no_finetune"), dense)
    write_run(run_id(mode="no_finetune"), pruned)
    row = results(runs_dir, tolerance=tolerance).comparisons.iloc[0]
    assert (row["verdict"] or None) == verdict
    if verdict in ("lower", "higher"):
        assert row["difference_low"] * row["difference_high"] > 0
        assert row["p_holm"] < 0.05
    if verdict == "within":
        assert row["difference_low"] > -tolerance


@pytest.mark.parametrize(("mode", "seeds", "verdict"), [
    ("no_finetune", 1, "higher"), ("sparse_to_sparse", 1, "not told apart"), ("sparse_to_sparse", 2, "higher"),
])  # fmt: skip
def test_one_seed_tells_no_two_trained_methods_apart(write_run, runs_dir, mode, seeds, verdict):
    for seed in range(seeds):
        write_run(run_id("unstructured", mode=mode, seed=seed), 0.95)
        write_run(run_id("random", mode=mode, seed=seed), 0.2)
    row = results(runs_dir).comparisons.query("question == 'methods'").iloc[0]
    assert (row["verdict"], row["p_holm"] < 0.05) == (verdict, True)


def test_a_loss_has_no_tolerance(write_run, runs_dir):
    for name, loss in (("dense-sparsity00", 2.0), ("unstructured-sparsity50", 2.001)):
        write_run(f"m-t-{name}-no_finetune-seed0", loss=loss, by_loss=True)
    assert results(runs_dir, tolerance=0.9).comparisons["verdict"].isin(["higher", "not told apart"]).all()


def test_nothing_is_recovered_where_nothing_was_lost(write_run, runs_dir):
    write_run(run_id("dense", "00", "sparse_to_dense"), 0.5)
    for mode in ("no_finetune", "sparse_to_sparse"):
        write_run(run_id(mode=mode), 0.6)
    assert results(runs_dir).curves["recovered_share"].isna().all()
