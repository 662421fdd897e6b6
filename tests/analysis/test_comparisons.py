"""Any two cells are compared over the same examples; a question's comparisons are corrected together and get one
word."""

from functools import partial

import pytest
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute
from sparseft.study.config import Analysis
from storage.sound_records import diverge


def run_id(method="unstructured", sparsity="50", mode="sparse_to_sparse", seed=0) -> str:
    return f"m-t-{method}-sparsity{sparsity}-{mode}-seed{seed}"


def results(folder, **options):
    return compute(read_study(folder), Analysis(**options))


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


def test_seven_methods_are_not_compared_in_pairs_unless_you_ask(write_run, runs_dir):
    for importance in ("wanda", "ria", "stade", "fisher", "taylor", "gradient"):
        write_run(run_id(f"unstructured_{importance}"))
    write_run(run_id("random"))
    assert set(results(runs_dir).comparisons["question"]) == {"against"}


def test_no_divergence_is_called_lower_than_that_of_the_original_model(write_run, runs_dir):
    write_run(run_id("dense", "00", "no_finetune"), change=partial(diverge, text="1", windows=[0.0] * 12))
    write_run(run_id(mode="no_finetune"), change=partial(diverge, text="1", windows=[-0.1, *[-0.2] * 11]))
    row = results(runs_dir).comparisons.query("measure == 'divergence'").iloc[0]
    assert (row["verdict"], row["p_holm"] < 0.05) == ("not told apart", True)


def test_a_loss_has_no_tolerance(write_run, runs_dir):
    for name, loss in (("dense-sparsity00", 2.0), ("unstructured-sparsity50", 2.001)):
        write_run(f"m-t-{name}-no_finetune-seed0", loss=loss, by_loss=True)
    assert results(runs_dir, tolerance=0.9).comparisons["verdict"].isin(["higher", "not told apart"]).all()
