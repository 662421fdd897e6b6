"""Check that sound run folders are read, and that everything unsound is named."""

import os
import re
from pathlib import Path

import pytest
from sparseft.analysis.records import read_runs
from sparseft.errors import InputError
from sparseft.study.grid import Run

TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"
ERROR = (0.25 / 199) ** 0.5  # standard error of 200 outcomes, half of them right


def names(reason: str, words: str) -> bool:
    """Return whether a reason has every one of these words: the place and the values, whatever its sentence.

    What is to be done about it follows a semicolon, and does not count."""
    wrong = reason.partition(";")[0]
    return all(re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", wrong) for word in words.split())


def reasons(folder: Path) -> dict[str, tuple[bool, str]]:
    return {gap.run_id: (gap.left_out, gap.reason) for gap in read_runs(folder)[1]}


def test_a_sound_study_has_no_gaps(write_run, tmp_path):
    write_run(TUNED, 0.5, loss=2.25, loss_before=2.0, value_before=0.625)
    write_run(UNTUNED, 0.4)
    records, gaps = read_runs(tmp_path / "runs")
    assert [record.run.id for record in records] == [UNTUNED, TUNED]
    assert gaps == []
    assert [record.train_merge_gap for record in records] == [None, 0.25]
    assert [record.train_merge_gap_value for record in records] == [None, -0.125]


@pytest.mark.parametrize("file", ["evaluation.json", "validation_report.json"])
def test_a_run_without_its_result_is_left_out(write_run, tmp_path, file):
    write_run(UNTUNED, 0.4)
    (write_run(TUNED, 0.5) / file).unlink()
    assert [record.run.id for record in read_runs(tmp_path / "runs")[0]] == [UNTUNED]
    ((run_id, (left_out, reason)),) = reasons(tmp_path / "runs").items()
    assert (run_id, left_out) == (TUNED, True)
    assert reason.startswith(f"{file}: no such file")


@pytest.mark.parametrize("file", ["train.json", "merge.json"])
def test_a_run_without_its_history_stays_with_blanks(write_run, tmp_path, file):
    (write_run(TUNED, 0.5) / file).write_text("{")
    assert len(read_runs(tmp_path / "runs")[0]) == 1
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert not left_out
    assert reason.startswith(f"{file}: ")
    assert "json" in reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "json"),
        ("{", "json"),
        ("[]", "object"),
        ("{}", "lacks"),
        ("\xff", "json"),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(write_run, tmp_path, text, words):
    write_run(UNTUNED, 0.4)
    (write_run(TUNED, 0.5) / "evaluation.json").write_text(text, encoding="latin-1")
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert left_out
    assert reason.startswith("evaluation.json: ")
    assert names(reason, words)


@pytest.mark.parametrize("value", ["0.5", True, None])
def test_a_value_of_the_wrong_type_is_not_read_as_a_number(write_run, tmp_path, value):
    write_run(UNTUNED, 0.4)
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"].update(value=value))
    reason = reasons(tmp_path / "runs")[TUNED][1]
    assert names(reason, "evaluation.json: value number")


def test_not_a_number_is_refused(write_run, tmp_path):
    write_run(UNTUNED, 0.4)
    file = write_run(TUNED, 0.5) / "evaluation.json"
    file.write_text(file.read_text().replace('"value": 0.5', '"value": NaN'))
    assert "finite" in reasons(tmp_path / "runs")[TUNED][1]


@pytest.mark.parametrize(("change", "words"), [
    ({"outcomes": [1, 0] * 99}, "outcomes 198 200"),
    ({"eval_loss": 2.25}, "eval_loss 2.25 losses"),
    ({"losses": [2.0] * 199}, "losses 199 200"),
    ({"losses": [-1.0] * 200}, "losses 0"),
    ({"answer_tokens": [0] * 200}, "answer_tokens 0"),
    ({"outcomes": [1] * 199 + [2]}, "outcomes 199 1"),
    ({"outcomes": [1] * 101 + [0] * 99}, "value 0.5 outcomes"),
    ({"outcomes": [0.5] * 200}, "outcomes 200"),
    ({"examples": 201}, "losses answer_tokens predictions log_likelihoods 200 201"),
    ({"predictions": []}, "predictions 0 200"),
    ({"value": 1.5}, "value 1"),
    ({"value": 0.25}, "value standard_error metrics.acc"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "f1": -0.1}}, "metrics.f1 -0.1"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "wikitext2_ppl_20": 0.9}}, "metrics.wikitext2_ppl_20 0.9"),
    ({"standard_error": 0.5, "metrics": {"acc": 0.5, "acc_stderr": 0.5}},
     "standard_error 0.5 outcomes 0.0354441"),
    ({"distinct_prompts": 999}, "999 200 examples"),
    ({"examples": 10**400}, "examples 9223372036854775808"),
    ({"eval_loss": 1e308}, "eval_loss 1000000"),
    ({"eval_loss": -1.0}, "eval_loss 0"),
    ({"log_likelihoods": [[0.1] * 4] * 200}, "log_likelihoods 0"),
    ({"predictions": [3] * 200}, "predictions rows"),
    ({"labels": [0] * 200}, "outcomes predictions labels"),
    ({"labels": [4] * 200}, "label choice"),
    ({"labels": ["0"] * 200}, "label choice"),
    ({"choice_lengths": [[5] * 3] * 200}, "log_likelihoods choice_lengths"),
    ({"choice_lengths": None}, "log_likelihoods choice_lengths ties"),
    ({"generations": ["7"] * 200}, "log_likelihoods generations"),
    ({"ties": 1}, "ties 1 rows 0"),
    ({"chance": 0.5}, "chance 0.5 rows 0.25"),
    ({"log_likelihoods": [[-99.0] * 4] * 200}, "losses 200 log_likelihoods"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "acc_norm": 0.75}}, "metrics.acc_norm 0.75 rows 0.5"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "recall_yes": None}}, "metrics.recall_yes none rows"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "majority_floor": 0.5}}, "metrics.majority_floor 0.5 rows 0.25"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "f1_stderr": 0.5}}, "metrics.f1_stderr 0.5 rows"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "exact_match": 0.5}}, "metrics.exact_match rows"),
    ({"metrics": {"acc": 0.5, "acc_stderr": ERROR, "local_text_ppl_20": 9.0}}, "metrics.local_text_ppl_20"),
    ({"seconds": -1.0}, "seconds 0"),
    ({"peak_memory_bytes": 0}, "peak_memory_bytes 0"),
])  # fmt: skip
def test_a_result_that_contradicts_itself_is_named_and_the_rest_analysed(write_run, tmp_path, change, words):
    write_run(UNTUNED, 0.4)
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"].update(change))
    assert [record.run.id for record in read_runs(tmp_path / "runs")[0]] == [UNTUNED]
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert left_out
    assert reason.startswith("evaluation.json: ")
    assert names(reason, words)


ALL_RIGHT = {"value": 1.0, "standard_error": 0.0, "outcomes": [1.0] * 200}


def test_outcomes_that_are_forged_with_everything_that_is_taken_from_them_are_found(write_run, tmp_path):
    forged = {**ALL_RIGHT, "metrics": {"acc": 1.0, "acc_stderr": 0.0}}
    write_run(UNTUNED, 0.4)
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"].update(forged))
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert left_out
    assert names(reason, "outcomes 100 predictions labels metrics.acc 1.0 0.5")


@pytest.mark.parametrize(("change", "words"), [
    ({"predictions": ["7"] * 200}, "predictions 100 rows"),
    ({"generations": ["#### 7"] * 200}, "predictions outcomes 100 rows"),
    ({"metrics": {"exact_match": 1.0, "exact_match_stderr": 0.0}}, "outcomes 100 predictions labels"),
    ({"labels": [7] * 200}, "label text"),
    ({"ties": 0}, "generated choices"),
    ({"chance": 0.25}, "chance 0.25 rows 0"),
])  # fmt: skip
def test_generated_answers_are_extracted_and_matched_again(write_run, tmp_path, change, words):
    write_run(UNTUNED, 0.4)
    change = change if "metrics" not in change else {**ALL_RIGHT, **change}
    write_run(TUNED, 0.5, generated=True, change=lambda files: files["evaluation"].update(change))
    assert names(reasons(tmp_path / "runs")[TUNED][1], words)


@pytest.mark.parametrize(("change", "words"), [
    ({"outcomes": [1.0] * 200}, "value 0.5 outcomes"),
    ({"value": 0.25}, "value 0.25 outcomes metrics.overlap"),
    ({"standard_error": 0.5}, "standard_error 0.5 outcomes"),
    ({"outcomes": [1.5] + [0.5] * 199}, "outcomes 0 1"),
    ({"predictions": None}, "outcomes predictions labels"),
])  # fmt: skip
def test_the_mean_of_outcomes_that_only_lm_eval_can_compute_is_checked(write_run, tmp_path, change, words):
    write_run(UNTUNED, 0.4, fractions=True, definition=True)
    write_run(TUNED, 0.5, fractions=True, definition=True, change=lambda files: files["evaluation"].update(change))
    assert names(reasons(tmp_path / "runs")[TUNED][1], words)


def test_outcomes_that_only_lm_eval_can_compute_are_named_as_not_checked(write_run, tmp_path):
    write_run(UNTUNED, 0.4, fractions=True, definition=True)
    (record,), gaps = read_runs(tmp_path / "runs")
    assert gaps == []
    assert names(record.evaluation.not_recomputed, "overlap example lm-eval")
    write_run(UNTUNED, 0.4, definition=True)
    ((record,), _) = read_runs(tmp_path / "runs")
    assert record.evaluation.not_recomputed is None


def test_a_built_in_task_is_never_scored_by_lm_eval_alone(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(UNTUNED, 0.4, change=lambda files: files["evaluation"].update(scored_by="lm-eval"))
    assert names(reasons(tmp_path / "runs")[UNTUNED][1], "scored_by lm-eval")


def test_a_metric_of_lm_eval_that_is_not_known_here_stays_in_its_file(write_run, tmp_path):
    further = lambda files: files["evaluation"]["metrics"].update(overlap_strict=0.25)  # noqa: E731
    write_run(UNTUNED, 0.5, fractions=True, definition=True, change=further)
    ((record,), gaps) = read_runs(tmp_path / "runs")
    assert gaps == []
    assert record.evaluation.metrics["overlap_strict"] == 0.25


@pytest.mark.parametrize("error", ["em_stderr_strict", "em_strict_stderr"])
def test_the_standard_error_of_a_filtered_metric_is_found(write_run, tmp_path, error):
    def rename(files: dict) -> None:
        result = files["evaluation"]
        result["metrics"] = {"em_strict": result["value"], error: result["standard_error"]}
        result["metric"] = "em_strict"

    write_run(UNTUNED, 0.5, fractions=True, definition=True, change=rename)
    assert read_runs(tmp_path / "runs")[1] == []


def test_the_evidence_is_not_kept_in_memory(write_run, tmp_path):
    write_run(TUNED, 0.5)
    (record,), _ = read_runs(tmp_path / "runs")
    for result in (record.evaluation, record.before):
        kept = [result.labels, result.choice_lengths, result.log_likelihoods, result.predictions, result.generations]
        assert kept == [None] * 5
        assert len(result.rows_digest) == 64


def test_only_a_perplexity_on_wikitext2_bears_its_name(write_run, tmp_path):
    write_run(UNTUNED, 0.4, metrics={"wikitext2_ppl_20": 9.0})
    other = lambda files: files["evaluation"]["inputs"].update(wikitext2="f" * 64)  # noqa: E731
    write_run(TUNED, 0.5, metrics={"wikitext2_ppl_20": 9.0}, change=other)
    assert names(reasons(tmp_path / "runs")[TUNED][1], "metrics.wikitext2_ppl_20 text")
    write_run(TUNED, 0.5, metrics={"local_text_ppl_20": 9.0}, change=other)
    assert reasons(tmp_path / "runs") == {}


@pytest.mark.parametrize(("change", "words"), [
    ({"train_seconds": -120.0}, "train_seconds 0"),
    ({"train_seconds": 60.0}, "480 samples 48000 tokens 60 4"),
    ({"tokens": 48001}, "48001 tokens 120 400"),
    ({"tokens_per_second_overall": 800.0}, "48000 tokens 120 800"),
    ({"steps": 61}, "losses 60 61"),
    ({"updates": 61}, "updates 61 60"),
    ({"updates": -1}, "updates 0"),
    ({"final_loss": -0.1}, "final_loss 0"),
    ({"final_loss": 1.0}, "final_loss 1 loss_curve 2"),
    ({"trainable_parameters": 0}, "trainable_parameters 0"),
])  # fmt: skip
def test_a_training_that_contradicts_itself_leaves_blanks(write_run, tmp_path, change, words):
    write_run(TUNED, 0.5, change=lambda files: files["train"].update(change))
    (record,), (gap,) = read_runs(tmp_path / "runs")
    assert record.train is None
    assert gap.reason.startswith("train.json: ")
    assert names(gap.reason, words)


def tolerated(files: dict) -> None:
    """Change a report so that 5 of 2,000 weights are pruned and not zero, but within its tolerance."""
    report = files["validation_report"]
    report["layers"][0].update(zeros=495, within_tolerance=5, max_abs_pruned=0.0009)
    report.update(tolerance=0.001, max_abs_pruned=0.0009, actual_sparsity=0.4975, not_checked=["5 passed as zeros."])


def test_a_validation_within_a_tolerance_is_read_with_what_it_leaves_open(write_run, tmp_path):
    write_run(UNTUNED, 0.5, change=tolerated)
    ((record,), gaps) = read_runs(tmp_path / "runs")
    report = record.validation
    assert gaps == []
    assert (report.not_checked, report.max_abs_pruned) == (["5 passed as zeros."], 0.0009)
    assert (report.actual_sparsity, report.sparsity_within_tolerance) == (0.4975, 0.5)


@pytest.mark.parametrize(("change", "words"), [
    ({"tolerance": 0.0}, "tolerance 0 5 0.0009 violations"),
    ({"not_checked": []}, "not_checked 0 base"),
    ({"max_abs_pruned": 0.0}, "max_abs_pruned 0 layers"),
    ({"sparsity_within_tolerance": 0.4975}, "sparsity_within_tolerance 0.4975 1,000 2,000"),
    ({"sparsity_within_tolerance": 1.5}, "sparsity_within_tolerance 1"),
])  # fmt: skip
def test_a_validation_that_contradicts_itself_is_in_no_table(write_run, tmp_path, change, words):
    def contradict(files: dict) -> None:
        tolerated(files)
        files["validation_report"].update(change)

    write_run(TUNED, 0.5)
    write_run(UNTUNED, 0.5, change=contradict)
    left_out, reason = reasons(tmp_path / "runs")[UNTUNED]
    assert left_out
    assert reason.startswith("validation_report.json: ")
    assert names(reason, words)


def test_a_validation_without_a_base_that_leaves_nothing_open_is_in_no_table(write_run, tmp_path):
    write_run(TUNED, 0.5)
    write_run(UNTUNED, 0.5, change=lambda files: files["validation_report"]["inputs"].update(base=None))
    assert names(reasons(tmp_path / "runs")[UNTUNED][1], "not_checked 0 base")


def test_no_gap_is_taken_between_unlike_results(write_run, pieces, tmp_path):
    few = pieces(Run.parse(TUNED), 0.5, examples=100)["before_merge"]
    write_run(TUNED, 0.5, change=lambda files: files["before_merge"].update(few))
    (record,), (gap,) = read_runs(tmp_path / "runs")
    assert (record.train_merge_gap, record.train_merge_gap_value) == (None, None)
    assert names(gap.reason, "before_merge.json: examples 100 evaluation.json 200")


@pytest.mark.parametrize(
    ("copy", "words"),
    [
        (TUNED.replace("seed0", "seed1"), f"train.json: {TUNED}"),
        (TUNED.replace("-t-", "-u-"), "task t"),
        (TUNED.replace("50", "70"), "validation_report.json: mask unstructured 0.5"),
        (TUNED.replace("unstructured", "random"), "validation_report.json: mask unstructured 0.5"),
    ],
)
def test_a_copied_folder_is_not_another_run(write_run, tmp_path, copy, words):
    folder = write_run(TUNED, 0.5)
    folder.rename(folder.with_name(copy))
    write_run(TUNED, 0.5)
    left_out, reason = reasons(tmp_path / "runs")[copy]
    assert left_out
    assert names(reason, words)


def test_a_hole_in_the_grid_is_missing_and_nothing_beyond_it(write_run, tmp_path):
    for method in ("unstructured", "random"):
        for mode in ("no_finetune", "sparse_to_dense"):
            write_run(f"m-t-{method}-sparsity50-{mode}-seed0", 0.5)
    write_run(TUNED.replace("seed0", "seed1"), 0.5)
    write_run("m-t-dense-sparsity00-sparse_to_dense-seed0", 0.5)  # no method's, and a grid of its own
    write_run("n-u-structured-sparsity70-sparse_to_sparse-seed2", 0.5)  # so is another model's
    ((run_id, (left_out, reason)),) = reasons(tmp_path / "runs").items()
    assert (run_id, left_out) == ("m-t-random-sparsity50-sparse_to_dense-seed1", True)
    assert names(reason, "folder grid")


def test_a_run_that_cannot_be_read_is_missing_once(write_run, tmp_path):
    for seed, method in [(0, "random"), (1, "random"), (0, "unstructured")]:
        write_run(f"m-t-{method}-sparsity50-sparse_to_dense-seed{seed}", 0.5)
    (write_run(TUNED.replace("seed0", "seed1"), 0.5) / "evaluation.json").unlink()
    (gap,) = read_runs(tmp_path / "runs")[1]
    assert gap.reason.startswith("evaluation.json: ")


def test_foreign_folders_are_named_and_unfinished_ones_and_files_passed_over(write_run, tmp_path):
    write_run(TUNED, 0.5)
    for name in ("notes", ".hidden", "m-t-unstructured-sparsity00-sparse_to_dense-seed0"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "README.md").touch()
    assert set(reasons(tmp_path / "runs")) == {"notes", "m-t-unstructured-sparsity00-sparse_to_dense-seed0"}


def test_no_complete_run_is_bad_input(write_run, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_runs(tmp_path / "runs")
    (write_run(TUNED, 0.5) / "evaluation.json").unlink()
    with pytest.raises(InputError, match=r"1 run folder.*evaluation.json"):
        read_runs(tmp_path / "runs")


def test_half_an_adapter_is_named_and_the_run_analysed(write_run, tmp_path):
    folder = write_run("m-t-random-sparsity50-sparse_to_dense-seed0", 0.5)
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    records, (gap,) = read_runs(tmp_path / "runs")
    assert len(records) == 1
    assert not gap.left_out
    assert names(gap.reason, "adapter: adapter_model.safetensors")


def test_a_folder_whose_name_is_no_text_or_several_lines_is_named_in_one(write_run, tmp_path):
    write_run(TUNED, 0.5)
    for name in (b"bad\xff", b"two\nlines"):
        os.mkdir(os.fsencode(tmp_path / "runs") + b"/" + name)
    _, gaps = read_runs(tmp_path / "runs")
    assert [gap.run_id for gap in gaps] == [r"bad\udcff", r"two\nlines"]
    for gap in gaps:
        gap.reason.encode()


def test_a_seed_that_no_table_holds_is_a_gap_and_the_rest_analysed(write_run, tmp_path):
    write_run(TUNED, 0.5)
    (tmp_path / "runs" / TUNED.replace("seed0", f"seed{2**63}")).mkdir()
    records, (gap,) = read_runs(tmp_path / "runs")
    assert [record.run.id for record in records] == [TUNED]
    assert names(gap.reason, "name run")


def test_an_error_that_nobody_foresaw_in_one_folder_is_a_gap_and_the_rest_analysed(write_run, tmp_path):
    write_run(UNTUNED, 0.4)
    adapter = write_run(TUNED, 0.5) / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    (adapter / "adapter_model.safetensors").chmod(0)
    (adapter / "adapter_config.json").unlink()
    os.symlink("/proc/self/mem", adapter / "adapter_config.json")  # a regular file whose reading is an error
    records, (gap,) = read_runs(tmp_path / "runs")
    assert [record.run.id for record in records] == [UNTUNED]
    assert (gap.run_id, gap.left_out) == (TUNED, True)
    assert gap.reason.startswith(("OSError: ", "PermissionError: "))


@pytest.mark.parametrize(("name", "value"), [
    ("dtype", "float32"), ("harness", "lm-eval 0.3.0"), ("few_shot", 5), ("prompt_sha256", "f" * 64),
])  # fmt: skip
def test_no_gap_is_taken_between_results_of_other_prompts_or_arithmetic(write_run, tmp_path, name, value):
    write_run(TUNED, 0.5, change=lambda files: files["before_merge"].update({name: value}))
    (record,), (gap,) = read_runs(tmp_path / "runs")
    assert record.train_merge_gap is None
    assert names(gap.reason, f"before_merge.json: {name} {value} evaluation.json")
