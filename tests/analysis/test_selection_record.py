"""selection.json: its columns, and the attempts to choose by rows that are trained on or reported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_cache import write
from project import succeed
from sparseft.analysis.derived import derive
from sparseft.analysis.judgement import Judged, judge_runs
from sparseft.analysis.records import read_runs
from sparseft.analysis.records.selection_record import SelectionRows
from sparseft.storage.hashes import sha256
from sparseft.storage.record import read_record, write_record
from sparseft.tasks.scoring import labels_digest, ratio_error
from test_records import names, reasons

RUN = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
OTHER = "m-t-unstructured-sparsity50-sparse_to_sparse-seed0"
COLUMNS = ["selection_value", "selection_standard_error", "selection_loss", "selection_examples"]


def judged(tmp_path: Path) -> dict[str, Judged]:
    """Return the runs that were written, each with its faults."""
    return {run.record.run.id: run for run in judge_runs(read_runs(tmp_path / "runs")[0])}


def test_the_columns_hold_what_the_record_says(write_run, tmp_path):
    write_run(RUN, 0.5, selection=0.6)
    write_run(OTHER, 0.5)
    assert reasons(tmp_path / "runs") == {}
    records, gaps = read_runs(tmp_path / "runs")
    table = derive(judge_runs(records), 0.02, gaps).runs.set_index("mode")
    (record,) = [record for record in records if record.selection]
    error = (0.6 * 0.4 / 79) ** 0.5
    assert table.loc["sparse_to_dense", COLUMNS].tolist() == pytest.approx([0.6, error, 2.125, 80])
    assert table.loc["sparse_to_sparse", COLUMNS].isna().all()
    assert record.selection.eval_loss_standard_error == ratio_error(
        record.selection.losses, record.selection.answer_tokens
    )


def test_a_study_without_selection_rows_has_no_column_of_them(write_run, tmp_path):
    write_run(RUN, 0.5)
    records, gaps = read_runs(tmp_path / "runs")
    assert not [name for name in derive(judge_runs(records), 0.02, gaps).runs if name.startswith("selection")]


def test_the_evaluation_under_the_name_of_the_selection_is_not_read(write_run, tmp_path):
    folder = write_run(RUN, 0.5, selection=0.6)
    (folder / "selection.json").write_bytes((folder / "evaluation.json").read_bytes())
    left_out, reason = reasons(tmp_path / "runs")[RUN]
    assert not left_out
    assert names(reason, "selection.json split inputs.validation")
    assert judged(tmp_path)[RUN].record.selection is None


# What a cheat changes in selection.json, given the evaluation -> words of the reason.
CONTRADICTIONS = {
    "data of validation": (lambda own, evaluation: own["inputs"].update(data=evaluation["inputs"]["data"]), "inputs.data validation"),
    "data of training": (lambda own, evaluation: own["inputs"].update(data=evaluation["inputs"]["train"]), "inputs.data train"),
    "another split": (lambda own, evaluation: own.update(split="validation"), "split selection"),
    "value": (lambda own, evaluation: own.update(value=0.9), "value 0.9"),
    "loss": (lambda own, evaluation: own.update(eval_loss=0.1), "eval_loss 0.1"),
    "run": (lambda own, evaluation: own.update(task="other"), "task other"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_record_that_contradicts_itself_is_not_read(write_run, tmp_path, name):
    change, words = CONTRADICTIONS[name]
    write_run(OTHER, 0.5)
    write_run(RUN, 0.5, selection=0.6, change=lambda files: change(files["selection"], files["evaluation"]))
    assert names(reasons(tmp_path / "runs")[RUN][1], f"selection.json {words}")
    runs = judged(tmp_path)
    assert RUN not in runs or runs[RUN].record.selection is None


def copy_rows(own: dict, evaluation: dict) -> None:
    """Replace the rows of a selection record by those of the evaluation, and keep what says otherwise."""
    kept = {name: own[name] for name in ("split", "inputs", "prompt_sha256")}
    own |= {**evaluation, **kept}


FAULTS = {
    "another model": (lambda own, evaluation: own["inputs"].update(model={"model.safetensors": "0" * 64}), "another model"),
    "other validation rows": (lambda own, evaluation: own["inputs"].update(validation="0" * 64), "other training or validation rows"),
    "other training rows": (lambda own, evaluation: own["inputs"].update(train="0" * 64), "other training or validation rows"),
    "another dtype": (lambda own, evaluation: own.update(dtype="float32"), "dtype is float32, in evaluation.json bfloat16"),
    "another harness": (lambda own, evaluation: own.update(harness="lm-eval 0"), "harness is lm-eval 0"),
    "the validation prompts": (lambda own, evaluation: own.update(prompt_sha256=evaluation["prompt_sha256"]), "prompts are those"),
    "the validation losses": (copy_rows, "losses are those"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_record_of_something_else_is_a_fault_and_is_not_used(write_run, tmp_path, name):
    change, words = FAULTS[name]
    write_run(RUN, 0.5, selection=0.6, change=lambda files: change(files["selection"], files["evaluation"]))
    run = judged(tmp_path)[RUN]
    (fault,) = run.faults
    assert fault.startswith("selection rows: selection.json: ")
    assert words in fault
    assert run.record.selection is None


def test_runs_on_different_selection_rows_conflict(write_run, tmp_path):
    def other_rows(files: dict) -> None:
        files["selection"]["inputs"]["data"] = "0" * 64

    for seed in range(3):
        write_run(RUN.replace("seed0", f"seed{seed}"), 0.5, selection=0.6)
    write_run(OTHER, 0.5, selection=0.6, change=other_rows)
    faults = {run_id: run.faults for run_id, run in judged(tmp_path).items() if run.faults}
    assert list(faults) == [OTHER]
    assert faults[OTHER] == ["conflicts with other runs, selection rows of t: 000000000000 in 1 of 4 runs"]


def boolq(word: str, count: int) -> list[dict]:
    """Return rows of BoolQ."""
    return [{"passage": f"{word} {n}.", "question": "is ice cold", "answer": n % 2 == 0} for n in range(count)]


@pytest.fixture
def study(write_run, tmp_path, monkeypatch) -> Callable:
    """Return study(change), which prepares BoolQ, changes its folder, and returns what the analysis says of a run on its rows."""
    monkeypatch.chdir(tmp_path)
    write(Path("own/train.jsonl"), boolq("Ice", 20))
    write(Path("own/validation.jsonl"), boolq("Snow", 6))
    flags = {"task": "boolq", "local": "own", "train_examples": 8}
    folder = Path("data/boolq")
    succeed("prepare_task.py", **flags, output_dir=folder)
    succeed("prepare_selection.py", **flags, data_dir=folder)

    def check(change: Callable[[Path], None] = lambda folder: None, *, labels: list[int] | None = None):
        change(folder)
        digests = {split: sha256(folder / f"{split}.jsonl") for split in ("train", "validation", "selection")}
        right = [int(json.loads(line)["answer"]) for line in (folder / "selection.jsonl").read_text().splitlines()]
        rows = {"labels": labels or right, "choice_lengths": [[2, 3]] * len(right)}

        def on_the_rows(files: dict) -> None:
            files["evaluation"]["inputs"] |= {"train": digests["train"], "data": digests["validation"]}
            files["selection"]["inputs"] |= digests | {"data": digests["selection"]}
            del files["selection"]["inputs"]["selection"]

        write_run("m-boolq-unstructured-sparsity50-sparse_to_dense-seed0", 0.5, selection=0.6, change=on_the_rows)
        (record,) = read_runs(tmp_path / "runs")[0]
        own = record.selection
        own._rows_digest = labels_digest(rows["labels"], rows["choice_lengths"])
        return SelectionRows(tmp_path).check("boolq", own, record.evaluation)

    return check


def cheat_with(split: str) -> Callable[[Path], None]:
    """Return a change that makes the selection rows those of another split, with a manifest that fits them."""

    def change(folder: Path) -> None:
        manifest = read_record(folder / "selection_manifest.json")
        lines = (folder / f"{split}.jsonl").read_text()
        # Another order, so that the file has another digest.
        (folder / "selection.jsonl").write_text("".join(reversed(lines.splitlines(keepends=True))))
        write_record(folder / "selection_manifest.json", manifest | {"sha256": sha256(folder / "selection.jsonl")})

    return change


def edit_manifest(**changes: object) -> Callable[[Path], None]:
    """Return a change of the manifest that keeps its digest right."""
    return lambda folder: write_record(
        folder / "selection_manifest.json", read_record(folder / "selection_manifest.json") | changes
    )


def test_the_rows_of_the_study_are_compared_with_the_record(study):
    check = study()
    assert (check.fault, check.unchecked) == (None, None)


def test_other_right_answers_than_those_of_the_rows_are_a_fault(study):
    assert study(labels=[1] * 6).fault == "labels or choice_lengths are not those of boolq/selection.jsonl"


@pytest.mark.parametrize(("change", "words"), [
    (cheat_with("validation"), "6 rows also occur in the validation rows"),
    (cheat_with("train"), "8 rows also occur in the train rows"),
    (edit_manifest(sha256="0" * 64), "not the file that selection_manifest.json records"),
    (edit_manifest(disjoint_from={"train": "0" * 64, "validation": "0" * 64}), "chosen beside other files"),
    (lambda folder: (folder / "selection_manifest.json").unlink(), "selection_manifest.json"),
    (lambda folder: (folder / "selection.jsonl").write_text('{"question": "is it", "answer": true}\n'), "field 'passage' is missing"),
])  # fmt: skip
def test_rows_in_the_study_that_are_no_selection_rows_are_a_fault(study, change, words):
    assert words in study(change).fault


def test_rows_that_are_missing_or_others_leave_the_record_unchecked(study, tmp_path):
    study()
    (record,) = read_runs(tmp_path / "runs")[0]
    (tmp_path / "data/boolq/selection.jsonl").write_text("".join(json.dumps(row) + "\n" for row in boolq("Rain", 3)))
    for words in ("is another file than the one that was evaluated on", "is not there"):
        check = SelectionRows(tmp_path).check("boolq", record.selection, record.evaluation)
        assert (check.fault, check.unchecked) == (None, f"boolq/selection.jsonl {words}")
        (tmp_path / "data/boolq/selection.jsonl").unlink(missing_ok=True)
