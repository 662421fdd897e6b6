"""What EXPERIMENTS.md says of the numbers, and what it leaves unsaid."""

from pathlib import Path

from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.experiments import findings, results_table
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs

DENSE = "m-t-dense-sparsity00-no_finetune-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"


def derived(tmp_path: Path) -> Derived:
    return derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02)


def sentences(tmp_path: Path) -> list[str]:
    return findings(derived(tmp_path), 0.02)


def test_a_yes_no_model_is_measured_from_what_one_answer_to_all_scores(write_run, tmp_path):
    write_run(DENSE, 0.655, labels=lambda _: [1] * 125 + [0] * 75, classes=True)
    line = "The dense model without fine-tuning: 0.655 ± 0.034, +0.9 standard errors from one answer to all (0.625)."
    assert sentences(tmp_path)[0] == line


def test_a_model_is_measured_from_chance_where_one_answer_to_all_scores_no_more_or_is_no_metric(write_run, tmp_path):
    for metrics in ({"majority_floor": 0.25}, {}):
        write_run(DENSE, 0.28, metrics=metrics)
        line = "The dense model without fine-tuning: 0.280 ± 0.032, +0.9 standard errors from chance (0.25)."
        assert sentences(tmp_path)[0] == line


def test_a_recall_of_a_class_without_examples_is_left_out(write_run, tmp_path):
    write_run(TUNED, 0.5, labels=lambda outcomes: [1] * len(outcomes), classes=True)
    assert results_table(derived(tmp_path).cells)["sparse_to_dense"].tolist() == ["0.500 ± 0.035 yes 0.50"]


def told(tmp_path: Path, head: str) -> list[str]:
    return [line for line in sentences(tmp_path) if line.startswith(head)]


def test_methods_that_share_no_sparsity_with_the_control_have_no_sentence(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(TUNED.replace("unstructured-sparsity50", "random-sparsity70"), 0.25)
    assert told(tmp_path, "In mode") == []


def test_a_difference_has_a_number_only_where_it_is_significant(write_run, tmp_path):
    write_run(TUNED, 0.75)
    write_run(TUNED.replace("unstructured", "structured"), 0.5)
    write_run(TUNED.replace("unstructured", "random"), 0.475)
    (line,) = told(tmp_path, "In mode sparse_to_dense, minus random pruning: ")
    assert "unstructured +0.275 [" in line
    assert line.endswith("at 50 %; not significant: structured at 50 %.")


def test_what_is_within_the_tolerance_is_said_with_its_interval(write_run, tmp_path):
    write_run(TUNED.replace("unstructured-sparsity50", "dense-sparsity00"), 0.5)
    write_run(TUNED, 0.75)
    write_run(TUNED.replace("unstructured", "random"), 0.25)
    (line,) = told(tmp_path, "No regression beyond 0.02 against dense in mode sparse_to_dense: ")
    assert "unstructured up to 50 % (+0.250 [+0." in line
    assert line.endswith("not shown at the smallest sparsity for random.")


def test_the_dense_model_is_told_where_every_curve_is_sparse_to_sparse(write_run, tmp_path):
    write_run(DENSE.replace("no_finetune", "sparse_to_dense"), 0.75)
    write_run(TUNED.replace("to_dense", "to_sparse"), 0.5)
    assert sentences(tmp_path)[0].startswith("The dense model with plain LoRA: 0.750")


def test_a_result_of_another_model_is_marked_in_the_table(write_run, tmp_path):
    alien = {"model": {"model.safetensors": "f" * 64}, "data": "e" * 64}
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"]["inputs"].update(alien))
    assert results_table(derived(tmp_path).cells)["sparse_to_dense"].tolist() == ["0.500 ± 0.035 (at fault)"]
