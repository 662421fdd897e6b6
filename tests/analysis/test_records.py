"""Reading the run folders: what is sound is read, what is not is named."""

from pathlib import Path

import pytest
from sparseft.analysis.records import read_runs
from sparseft.errors import InputError

TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-unstructured-sparsity50-no_finetune-seed0"


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
    assert reasons(tmp_path / "runs") == {TUNED: (True, f"{file}: no such file or directory; make it again")}


@pytest.mark.parametrize("file", ["train.json", "merge.json"])
def test_a_run_without_its_history_stays_with_blanks(write_run, tmp_path, file):
    (write_run(TUNED, 0.5) / file).write_text("{")
    assert len(read_runs(tmp_path / "runs")[0]) == 1
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert not left_out
    assert reason.startswith(f"{file}: invalid json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "invalid json"),
        ("{", "invalid json"),
        ("[]", "should be an object"),
        ("{}", "field required"),
        ("\xff", "json"),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(write_run, tmp_path, text, said):
    write_run(UNTUNED, 0.4)
    (write_run(TUNED, 0.5) / "evaluation.json").write_text(text, encoding="latin-1")
    left_out, reason = reasons(tmp_path / "runs")[TUNED]
    assert left_out
    assert reason.startswith("evaluation.json: ")
    assert said in reason


@pytest.mark.parametrize("value", ["0.5", True, None])
def test_a_value_of_the_wrong_type_is_not_read_as_a_number(write_run, tmp_path, value):
    write_run(UNTUNED, 0.4)
    write_run(TUNED, 0.5, change=lambda files: files["evaluation"].update(value=value))
    assert "evaluation.json: value input should be a valid number" in reasons(tmp_path / "runs")[TUNED][1]


def test_not_a_number_is_refused(write_run, tmp_path):
    write_run(UNTUNED, 0.4)
    file = write_run(TUNED, 0.5) / "evaluation.json"
    file.write_text(file.read_text().replace('"value": 0.5', '"value": NaN'))
    assert "finite" in reasons(tmp_path / "runs")[TUNED][1]


@pytest.mark.parametrize(
    ("copy", "said"),
    [(TUNED.replace("seed0", "seed1"), f"train.json: belongs to run {TUNED}"), (TUNED.replace("-t-", "-u-"), "task t")],
)
def test_a_copied_folder_is_not_another_run(write_run, tmp_path, copy, said):
    folder = write_run(TUNED, 0.5)
    folder.rename(folder.with_name(copy))
    write_run(TUNED, 0.5)
    left_out, reason = reasons(tmp_path / "runs")[copy]
    assert left_out
    assert said in reason


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
    with pytest.raises(InputError, match=r"1 run folders, none complete.*evaluation.json: no such file"):
        read_runs(tmp_path / "runs")
