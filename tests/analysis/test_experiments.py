"""EXPERIMENTS.md: what it says of the numbers, and what it must not say."""

import re
from pathlib import Path

import pytest
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.experiments import places, results_table, title, write_experiments
from sparseft.analysis.findings import findings, headline
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import Gap, read_runs

DENSE = "m-t-dense-sparsity00-no_finetune-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"


def derived(tmp_path: Path) -> Derived:
    """Return the tables of the runs that were written."""
    return derive(judge_runs(read_runs(tmp_path / "runs")[0]), 0.02)


def sentences(tmp_path: Path) -> list[str]:
    """Return the findings of the runs that were written."""
    return findings(derived(tmp_path), 0.02)


def sentence_with(tmp_path: Path, *words: str) -> str:
    """Return the one sentence that has all these words."""
    (sentence,) = [text for text in sentences(tmp_path) if all(word in text for word in words)]
    return sentence


def page(tmp_path: Path, **changes: object) -> str:
    """Return EXPERIMENTS.md of the runs."""
    judged = judge_runs(read_runs(tmp_path / "runs")[0])
    settings = {"gaps": [], "plots": []} | changes
    write_experiments(tmp_path / "page.md", judged, derived=derive(judged, 0.02), tolerance=0.02, **settings)
    return (tmp_path / "page.md").read_text()


def test_a_yes_no_model_is_measured_from_what_one_answer_to_all_scores(write_run, tmp_path):
    write_run(DENSE, 0.655, labels=lambda _: [1] * 125 + [0] * 75, classes=True)
    assert "0.9 standard errors above one answer to all (0.625)" in sentence_with(tmp_path, "dense", "0.655 ± 0.034")


def test_a_model_is_measured_from_chance_where_one_answer_to_all_scores_no_more_or_is_no_metric(write_run, tmp_path):
    for metrics in ({"majority_floor": 0.25}, {}):
        write_run(DENSE, 0.28, metrics=metrics)
        assert "0.9 standard errors above guessing (0.25)" in sentence_with(tmp_path, "dense", "0.280 ± 0.032")


def test_a_recall_of_a_class_without_examples_is_left_out(write_run, tmp_path):
    write_run(TUNED, 0.5, labels=lambda outcomes: [1] * len(outcomes), classes=True)
    assert results_table(derived(tmp_path).cells)["sparse_to_dense"].tolist() == ["0.500 ± 0.035 yes 0.50"]


def test_methods_that_share_no_sparsity_with_the_control_have_no_sentence(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(TUNED.replace("unstructured-sparsity50", "random-sparsity70"), 0.25)
    assert not [text for text in sentences(tmp_path) if "against random pruning" in text]


def test_a_difference_has_a_number_only_where_it_is_significant(write_run, tmp_path):
    write_run(TUNED, 0.75)
    write_run(TUNED.replace("unstructured", "structured"), 0.5)
    write_run(TUNED.replace("unstructured", "random"), 0.475)
    line = sentence_with(tmp_path, "sparse_to_dense", "random pruning", "values")
    assert "unstructured +0.275 [" in line
    assert "1 of 2" in line
    assert " structured" not in line


def test_no_significant_difference_is_said_without_a_number(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(TUNED.replace("unstructured", "random"), 0.475)
    line = sentence_with(tmp_path, "sparse_to_dense", "random pruning", "values")
    assert "none of 1" in line
    assert "0.025" not in line


def test_a_comparison_without_a_counterpart_of_every_seed_is_counted_apart(write_run, tmp_path):
    write_run(TUNED, 0.75)
    write_run(TUNED.replace("seed0", "seed1"), 0.75)
    write_run(TUNED.replace("unstructured", "random"), 0.25)
    line = sentence_with(tmp_path, "sparse_to_dense", "random pruning", "values")
    assert "none of 0" in line
    assert "1 could not be compared" in line


def test_of_many_significant_differences_four_are_examples(write_run, tmp_path):
    for sparsity in (10, 20, 30, 40, 50):
        write_run(TUNED.replace("50", str(sparsity)), 0.75)
        write_run(TUNED.replace("50", str(sparsity)).replace("unstructured", "random"), 0.25)
    line = sentence_with(tmp_path, "sparse_to_dense", "random pruning", "values")
    assert "5 of 5" in line
    assert line.count("+0.500 [") == 3
    assert "for example" in line


def test_what_is_within_the_tolerance_is_said_with_its_interval(write_run, tmp_path):
    write_run(TUNED.replace("unstructured-sparsity50", "dense-sparsity00"), 0.5)
    write_run(TUNED, 0.75)
    write_run(TUNED.replace("unstructured", "random"), 0.25)
    unstructured, random = sentence_with(tmp_path, "dense model", "sparse_to_dense", "0.02").split("; ")
    assert "at most 0.02 up to 50 % (+0.250 [+0." in unstructured
    assert "more than 0.02 at 50 % (-0.250 [-0." in random


@pytest.mark.long
def test_an_undecided_verdict_says_how_many_examples_leave_it_open(write_run, tmp_path):
    write_run(TUNED.replace("unstructured-sparsity50", "dense-sparsity00"), 0.5)
    write_run(TUNED, 0.5)
    line = sentence_with(tmp_path, "dense model", "sparse_to_dense", "0.02")
    for words in ("equal at 50 %", "200 examples cannot exclude", "(+0.000 [-0.0"):
        assert words in line
    assert "| equal here; 200 examples cannot exclude it |" in page(tmp_path)


def test_the_dense_model_has_a_sentence_if_every_curve_is_sparse_to_sparse(write_run, tmp_path):
    write_run(DENSE.replace("no_finetune", "sparse_to_dense"), 0.75)
    write_run(TUNED.replace("to_dense", "to_sparse"), 0.5)
    assert "LoRA" in sentence_with(tmp_path, "dense model", "0.750 ±")


def test_a_result_of_another_model_is_marked_in_the_table(write_run, tmp_path):
    alien = {"model": {"model.safetensors": "f" * 64}, "data": "e" * 64}
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"]["inputs"].update(alien))
    assert results_table(derived(tmp_path).cells)["sparse_to_dense"].tolist() == ["0.500 ± 0.035 (at fault)"]


@pytest.mark.long
def test_a_structured_method_is_said_with_the_sparsity_that_it_reached(write_run, tmp_path):
    def coarse(files: dict) -> None:
        report = files["validation_report"]
        report["expected_sparsity"] = report["actual_sparsity"] = report["sparsity_within_tolerance"] = 0.6
        for row in report["layers"]:
            row.update(pruned=600, zeros=600)

    structured = TUNED.replace("unstructured", "structured")
    write_run(structured, 0.75, change=coarse)
    write_run(TUNED.replace("unstructured", "random"), 0.25)
    assert "(reached 60.0 % against 50.0 %)" in sentence_with(tmp_path, "sparse_to_dense", "random pruning", "values")
    assert results_table(derived(tmp_path).cells)["sparsity, %"].tolist() == ["50 (60.0)", "50"]
    (control,) = [text for text in headline(derived(tmp_path), 0.02) if text.startswith("Random pruning")]
    assert "at 50 (reached 50.0 against 60.0) % (0.25 against 0.75)" in control


def test_a_mask_that_prunes_nothing_is_not_the_best_method_of_its_sparsity(write_run, tmp_path):
    def nothing(files: dict) -> None:
        report = files["validation_report"]
        report["expected_sparsity"] = report["actual_sparsity"] = report["sparsity_within_tolerance"] = 0.0
        for row in report["layers"]:
            row.update(pruned=0, zeros=0)

    untuned = TUNED.replace("sparse_to_dense", "no_finetune")
    write_run(DENSE, 0.75)
    write_run(untuned, 0.25)
    for method in ("structured", "random"):
        write_run(untuned.replace("unstructured", method), 0.75, change=nothing)
    sentences = headline(derived(tmp_path), 0.02)
    assert len(sentences) == 1
    assert sentences[0].startswith("At 50 % unstructured pruning lowers accuracy from 0.75 to 0.25")


def test_a_run_with_a_fault_supports_no_sentence(write_run, tmp_path):
    dense = TUNED.replace("unstructured-sparsity50", "dense-sparsity00")
    for run_id, value in ((dense, 0.75), (TUNED, 0.75), (TUNED.replace("unstructured", "random"), 0.25)):
        write_run(run_id, value, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    assert sentences(tmp_path) == []


def test_an_answer_and_a_loss_after_different_prompts_are_distinguished(write_run, tmp_path):
    write_run(TUNED, 0.5, generated=True, few_shot=5)
    text = page(tmp_path)
    assert re.search(r"t is answered after 5 worked examples, .* losses are taken after 0", text)
    assert "nan" not in text


def test_the_page_has_every_setting_that_decides_a_result(write_run, tmp_path):
    write_run(TUNED, 0.5, training={"learning_rate": 0.002, "lora_r": 4, "lora_alpha": 8.0, "lora_targets": ["q_proj"]})
    text = page(tmp_path)
    for line in ("learning rate: 0.002", "LoRA rank, alpha, dropout: 4, 8, 0", "LoRA targets: q_proj", "training rows (of a text: documents): 480",
                 "warm-up, share of the steps: 0.1", "steps x batch size: 60 x 8 (59 with a learning rate above 0)"):  # fmt: skip
        assert f"- {line}\n" in text


def test_the_headline_stands_before_the_table_and_both_before_everything_else(write_run, tmp_path):
    write_run(DENSE, 0.75)
    write_run(TUNED.replace("to_dense", "to_sparse"), 0.5)
    text = page(tmp_path, plots=["a.png"])
    (first, *_) = headline(derived(tmp_path), 0.02)
    rows = ["| method |", "| dense | 0 | 0.750 ± 0.031 |", "| unstructured | 50 | - | 0.500 ± 0.035 |"]
    places = [
        text.index(words) for words in (first, *rows, "plots/a.png", "## Limits", "## Settings", "## How to reproduce")
    ]
    assert places == sorted(places)


def test_runs_that_are_at_fault_outside_or_missing_are_counted_among_the_limits(write_run, tmp_path):
    write_run(TUNED, 0.5, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    limits = page(tmp_path, gaps=[Gap("m", True, "no such folder")] * 3).partition("## Limits")[2].partition("\n## ")[0]
    assert "1 of 1 runs have a fault" in limits
    assert "3 runs are missing" in limits


@pytest.mark.long
def test_every_model_task_and_setting_has_its_own_table(write_run, tmp_path):
    for run_id in (TUNED, TUNED.replace("-t-", "-u-"), TUNED.replace("m-", "n-")):
        write_run(run_id, 0.5)
    write_run(TUNED.replace("seed0", "seed1"), 0.5, training={"lora_r": 4})
    titles = [title(here) for here in places(derived(tmp_path))]
    assert sorted(titles) == ["m, t, acc, with lora_r 4", "m, t, acc, with lora_r 8", "m, u, acc", "n, t, acc"]
    assert all(f"### {name}\n" in page(tmp_path) for name in titles)


@pytest.mark.long
def test_the_dense_run_with_plain_lora_stands_in_the_column_of_every_mode_that_trains(write_run, tmp_path):
    write_run(DENSE, 0.5)
    write_run(DENSE.replace("no_finetune", "sparse_to_dense"), 0.7)
    write_run(TUNED.replace("sparse_to_dense", "sparse_to_sparse"), 0.6)
    table = results_table(derived(tmp_path).cells)
    assert list(table.columns) == ["method", "sparsity, %", "no_finetune", "sparse_to_sparse"]
    assert [text[:5] for text in table["sparse_to_sparse"]] == ["0.700", "0.600"]
    write_run(TUNED, 0.65)
    table = results_table(derived(tmp_path).cells)
    assert [text[:5] for text in table["sparse_to_dense"]] == ["0.700", "0.650"]
    assert [text[:5] for text in table["sparse_to_sparse"]] == ["0.700", "0.600"]
