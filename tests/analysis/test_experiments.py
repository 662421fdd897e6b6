"""What EXPERIMENTS.md says of the numbers, and what it leaves unsaid."""

from pathlib import Path

from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.experiments import results_table, write_experiments
from sparseft.analysis.findings import findings
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


def test_a_structured_method_is_said_with_the_sparsity_that_it_reached(write_run, tmp_path):
    def coarse(files: dict) -> None:
        report = files["validation_report"]
        report["expected_sparsity"] = report["actual_sparsity"] = report["sparsity_within_tolerance"] = 0.6
        for row in report["layers"]:
            row.update(pruned=600, zeros=600)

    structured = TUNED.replace("unstructured", "structured")
    write_run(structured, 0.75, change=coarse)
    write_run(TUNED.replace("unstructured", "random"), 0.25)
    (line,) = told(tmp_path, "In mode sparse_to_dense, minus random pruning: ")
    assert line.endswith("at 50 % (reached 60.0 % against 50.0 %).")
    assert results_table(derived(tmp_path).cells)["sparsity"].tolist() == ["50 (60.0)", "50"]


def test_a_run_with_a_fault_supports_no_sentence(write_run, tmp_path):
    dense = TUNED.replace("unstructured-sparsity50", "dense-sparsity00")
    for run_id, value in ((dense, 0.75), (TUNED, 0.75), (TUNED.replace("unstructured", "random"), 0.25)):
        write_run(run_id, value, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    assert sentences(tmp_path) == []


def test_an_answer_and_a_loss_after_other_prompts_are_told_apart(write_run, tmp_path):
    write_run(TUNED, 0.5, generated=True, few_shot=5)
    judged = judge_runs(read_runs(tmp_path / "runs")[0])
    write_experiments(tmp_path / "page.md", judged, derive(judged, 0.02), 0.02, left_out=0, plots=[])
    text = (tmp_path / "page.md").read_text()
    assert "t is answered after 5 worked examples, and its losses are taken after 0" in text
    assert "nan" not in text


def test_the_page_has_every_setting_that_decides_a_result(write_run, tmp_path):
    write_run(TUNED, 0.5, training={"learning_rate": 0.002, "lora_r": 4, "lora_alpha": 8.0, "lora_targets": ["q_proj"]})
    judged = judge_runs(read_runs(tmp_path / "runs")[0])
    write_experiments(tmp_path / "page.md", judged, derive(judged, 0.02), 0.02, left_out=0, plots=[])
    text = (tmp_path / "page.md").read_text()
    for line in ("learning rate: 0.002", "LoRA rank, alpha, dropout: 4, 8, 0", "LoRA targets: q_proj", "training examples: 480",
                 "warm-up, share of the steps: 0.1", "steps x batch size: 60 x 8 (59 with a learning rate above 0)"):  # fmt: skip
        assert f"- {line}\n" in text
