"""What EXPERIMENTS.md says of the numbers, and what it leaves unsaid."""

from pathlib import Path

from sparseft.analysis import tables
from sparseft.analysis.experiments import findings, results_table
from sparseft.analysis.records import read_runs

DENSE = "m-t-dense-sparsity00-no_finetune-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"


def sentences(tmp_path: Path) -> list[str]:
    return findings(tables.curves(tables.grouped(tables.summary(read_runs(tmp_path / "runs")[0]))))


def test_a_yes_no_model_is_measured_from_what_one_answer_to_all_scores(write_run, tmp_path):
    write_run(DENSE, 0.653, metrics={"majority_floor": 0.623})
    line = "The dense model without fine-tuning: 0.653 ± 0.030, +1.0 standard errors from one answer to all (0.623)."
    assert sentences(tmp_path) == [line]


def test_a_model_is_measured_from_chance_where_one_answer_to_all_scores_less_or_is_no_metric(write_run, tmp_path):
    for metrics in ({"majority_floor": 0.2}, {}):
        write_run(DENSE, 0.28, metrics=metrics)
        line = "The dense model without fine-tuning: 0.280 ± 0.030, +1.0 standard errors from chance (0.25)."
        assert sentences(tmp_path) == [line]


def test_a_recall_of_a_class_without_examples_is_left_out(write_run, tmp_path):
    write_run(TUNED, 0.5, metrics={"recall_no": None, "recall_yes": 0.5})
    cells = tables.grouped(tables.summary(read_runs(tmp_path / "runs")[0]))
    assert results_table(cells)["sparse_to_dense"].tolist() == ["0.500 ± 0.030 yes 0.50"]


def test_methods_that_share_no_sparsity_with_the_control_have_no_sentence(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(TUNED.replace("unstructured-sparsity50", "random-sparsity70"), 0.25)
    assert sentences(tmp_path) == []
    write_run(TUNED.replace("unstructured", "random"), 0.375)
    assert sentences(tmp_path) == ["In mode sparse_to_dense: unstructured minus random +0.125 at 50 %."]
